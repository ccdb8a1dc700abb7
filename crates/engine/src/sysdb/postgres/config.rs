//! The driver's view of a URL.
use crate::sysdb::url::PostgresUrl;
pub(super) fn of(url: &PostgresUrl) -> Result<postgres::Config, String> {
    url.0.parse().map_err(|e: postgres::Error| e.to_string())
}
