//! Database URLs: the accepted forms, and the refusals with their reasons.

#[cfg(feature = "postgres")]
mod postgres;

use std::path::PathBuf;

use crate::pure::error::{Error, Result};

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
        // Without a known scheme, any part of the text may be a password, and the scheme was mistyped.
        let Some((scheme, rest)) = url.split_once(':') else {
            return Err(refused(
                NOTHING_SHOWN,
                "it has no scheme; write sqlite:PATH, for example sqlite:shop.db, or postgresql://USER@HOST/DATABASE",
            ));
        };
        let refuse = |reason: &str| Err(refused("sqlite:***", reason));
        match scheme {
            "sqlite" => {}
            "postgres" | "postgresql" | "postgresql+psycopg" | "postgresql+psycopg2" => {
                return postgres(rest);
            }
            _ => {
                return Err(refused(
                    NOTHING_SHOWN,
                    "its scheme is unknown; write sqlite:PATH, for example sqlite:shop.db, or \
                     postgresql://USER@HOST/DATABASE",
                ));
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
            return refuse("an SQLite URL takes no options after `?`; remove them");
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

/// Shown in place of a URL that is not understood at all.
const NOTHING_SHOWN: &str = "***";

/// No part of a refused URL is shown: any part that was not understood may be a password.
fn refused(shown: &str, reason: &str) -> Error {
    Error::InvalidUrl { url: shown.to_owned(), reason: reason.to_owned() }
}

fn postgres(rest: &str) -> Result<Url> {
    let refuse = |reason: &str| refused("postgresql://***", reason);
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
            "host=db user=u password=s3cret",
            "host=db user=u password=s3cret:5 dbname=x",
            "password = 's3cret' options='-c a:b'",
            "s3cret",
            "s3cret:u@h/x",
            "postgres ql://u:s3cret?1@h/x",
            "PostgreSQL://u:s3cret@h/x",
            " postgresql://u:s3cret@h/x",
            "'postgresql://u:s3cret@h/x'",
            "jdbc:postgresql://h/x?user=u&password=s3cret",
            "postgresq://u:s3cret?x@h/x",
            "sqlite://u:s3cret@h/x",
            "sqlite://u:s3cret",
            "sqlite:///postgresql://u:s3cret?a@h/x",
        ] {
            let error = Url::parse(url).unwrap_err();
            for shown in [error.to_string(), format!("{error:?}"), format!("{error:#?}")] {
                assert!(!shown.contains("s3cret"), "{url} is shown as {shown}");
            }
        }
    }
}
