//! Database URLs: what is understood, what is refused and why.

#[cfg(feature = "postgres")]
mod postgres;

use std::fmt;
use std::path::PathBuf;

use crate::error::{Error, Result};

#[cfg(feature = "postgres")]
pub(crate) use postgres::{Host, PostgresUrl, Tls};

/// A database URL taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Url {
    Sqlite(PathBuf),
    #[cfg(feature = "postgres")]
    Postgres(Box<PostgresUrl>),
}

impl Url {
    /// `sqlite:PATH`, or `SQLAlchemy`'s `sqlite:///PATH` that the DBOS SDKs use.
    pub(crate) fn parse(url: &str) -> Result<Self> {
        let refuse =
            |reason: &str| Err(Error::InvalidUrl { url: Masked(url).to_string(), reason: reason.to_owned() });
        let Some((scheme, rest)) = url.split_once(':') else {
            return refuse("it has no scheme; write sqlite:PATH, for example sqlite:shop.db");
        };
        match scheme {
            "sqlite" => {}
            "postgres" | "postgresql" | "postgresql+psycopg" | "postgresql+psycopg2" => {
                return postgres(rest);
            }
            _ => {
                return refuse(
                    "the scheme is unknown; write sqlite:PATH, for example sqlite:shop.db, or \
                     postgresql://USER@HOST/DATABASE",
                );
            }
        }
        let path = match rest.strip_prefix("//") {
            None => rest,
            Some(after) => match after.strip_prefix('/') {
                Some(path) => path,
                None => {
                    return refuse(
                        "it has two slashes; write sqlite:PATH, or sqlite:///RELATIVE and sqlite:////ABSOLUTE",
                    );
                }
            },
        };
        if path.contains(":memory:") || path.contains("mode=memory") {
            return refuse(
                "a database in memory dies with the process, and then nothing is durable; name a file",
            );
        }
        if path.contains('?') {
            return refuse("options after `?` are not supported; durability is not an option here");
        }
        if path.is_empty() {
            return refuse("the path is empty; write sqlite:PATH, for example sqlite:shop.db");
        }
        if path.contains('\0') {
            return refuse("the path holds a NUL character");
        }
        Ok(Self::Sqlite(PathBuf::from(path)))
    }
}

/// Nothing of it is shown when it is refused: any part may be one of the password.
fn postgres(rest: &str) -> Result<Url> {
    let refuse =
        |reason: &str| Error::InvalidUrl { url: "postgresql://***".to_owned(), reason: reason.to_owned() };
    #[cfg(not(feature = "postgres"))]
    {
        let _ = rest;
        Err(refuse(
            "this program was built without the feature `postgres`; build with it, or write sqlite:PATH",
        ))
    }
    #[cfg(feature = "postgres")]
    {
        let rest = rest.strip_prefix("//");
        let rest =
            rest.ok_or_else(|| refuse("it lacks the two slashes; write postgresql://USER@HOST/DATABASE"))?;
        let url = PostgresUrl::parse(rest).map_err(|reason| refuse(&reason))?;
        Ok(Url::Postgres(Box::new(url)))
    }
}

/// A URL fit for logs and errors: no password, no options.
struct Masked<'u>(&'u str);

impl fmt::Display for Masked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.split('?').next().unwrap_or_default();
        match (shown.split_once("://"), shown.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, host))) => write!(f, "{scheme}://***@{host}"),
            (None, Some((_, host))) => write!(f, "***@{host}"),
            _ => f.write_str(&shown.escape_debug().to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(url: &str) -> PathBuf {
        match Url::parse(url).unwrap() {
            Url::Sqlite(path) => path,
            #[cfg(feature = "postgres")]
            Url::Postgres(url) => panic!("{url}"),
        }
    }

    fn refusal(url: &str) -> String {
        Url::parse(url).unwrap_err().to_string()
    }

    #[test]
    fn a_path_is_taken_as_it_stands() {
        assert_eq!(path("sqlite:shop.db"), PathBuf::from("shop.db"));
        assert_eq!(path("sqlite:/var/lib/shop.db"), PathBuf::from("/var/lib/shop.db"));
        assert_eq!(path("sqlite:///shop.db"), PathBuf::from("shop.db"), "relative, as SQLAlchemy has it");
        assert_eq!(path("sqlite:////var/lib/shop.db"), PathBuf::from("/var/lib/shop.db"));
    }

    #[test]
    fn a_database_in_memory_is_refused_with_the_reason() {
        for url in ["sqlite::memory:", "sqlite:///:memory:", "sqlite:file:x?mode=memory&cache=shared"] {
            assert!(refusal(url).contains("dies with the process"), "{url}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_with_a_way_out() {
        for url in [
            "",
            "shop.db",
            "sqlite:",
            "sqlite:///",
            "sqlite://shop.db",
            "mysql:x",
            "sqlite:x?cache=shared",
            "sqlite:a\0b",
        ] {
            let error = refusal(url);
            assert!(error.starts_with("database URL "), "{error}");
        }
        assert!(refusal("shop.db").contains("write sqlite:PATH"));
        #[cfg(not(feature = "postgres"))]
        assert!(refusal("postgresql://localhost/x").contains("built without the feature `postgres`"));
    }

    #[test]
    fn no_password_is_ever_shown() {
        for url in [
            "postgresql://trustle:s3cret@localhost:5432/test?sslmode=disable&password=s3cret",
            "postgresql://s3cret",
            "mysql:root:s3cret@host",
            "redis://:s3cret@h/0",
            "sqlite:x?key=s3cret",
        ] {
            assert!(!refusal(url).contains("s3cret"), "{url}");
        }
    }
}
