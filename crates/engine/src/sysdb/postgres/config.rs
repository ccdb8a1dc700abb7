//! The driver's view of a URL, without its hosts.

use tokio_postgres::Config;
use tokio_postgres::config::{ChannelBinding, SslMode, TargetSessionAttrs};

use crate::sysdb::{PostgresUrl, Tls};

/// The files that PostgreSQL's own programs read when the URL has no password.
const PASSWORD_VARIABLE: &str = "PGPASSWORD";

pub(super) fn of(url: &PostgresUrl) -> Config {
    let mut config = Config::new();
    config.dbname(&url.database);
    if let Some(user) = &url.user {
        config.user(user);
    }
    let password = url.password.as_ref().map(|password| password.reveal().to_owned());
    if let Some(password) = password.or_else(|| std::env::var(PASSWORD_VARIABLE).ok()) {
        config.password(password);
    }
    config.ssl_mode(match url.tls() {
        Tls::Disable => SslMode::Disable,
        Tls::Prefer => SslMode::Prefer,
        Tls::Require | Tls::VerifyFull => SslMode::Require,
    });
    if let Some(time) = url.tcp_user_timeout {
        config.tcp_user_timeout(time);
    }
    if let Some(on) = url.keepalives {
        config.keepalives(on);
    }
    if let Some(time) = url.keepalives_idle {
        config.keepalives_idle(time);
    }
    if let Some(time) = url.keepalives_interval {
        config.keepalives_interval(time);
    }
    if let Some(count) = url.keepalives_count {
        config.keepalives_retries(count);
    }
    if let Some(name) = &url.application_name {
        config.application_name(name);
    }
    if let Some(settings) = &url.settings {
        config.options(settings);
    }
    // Of several servers one takes writes.
    if url.read_write || url.hosts.len() > 1 {
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    }
    if url.require_channel_binding {
        config.channel_binding(ChannelBinding::Require);
    }
    config
}
