//! A program's own connections: the same URL, the same refusals.

use engine::{Error, PgConnector};

use crate::support::{Ground, options};

#[test]
fn a_programs_own_connection_leads_to_the_database_of_the_engine() {
    let ground = Ground::new();
    let _engine = ground.open();
    let mut client = PgConnector::new(&ground.url()).unwrap().connect().unwrap();
    let database: String = client.query_one("SELECT current_database()::text", &[]).unwrap().get(0);
    assert_eq!(database, ground.database);
}

/// It does not plan as the engine does, nor with its time-outs for statements.
#[test]
fn a_programs_own_connection_has_the_servers_settings() {
    const CHANGED: &str = "SELECT name::text FROM pg_settings WHERE source = 'session' ORDER BY name";
    let ground = Ground::new();
    let _engine = ground.open();
    let mut client = PgConnector::new(&ground.url()).unwrap().connect().unwrap();
    let changed: Vec<String> =
        client.query(CHANGED, &[]).unwrap().iter().map(|row| row.get::<_, String>(0)).collect();
    assert!(changed.is_empty(), "{changed:?}");
}

#[test]
fn what_the_engine_refuses_in_a_url_is_refused_in_the_same_words() {
    for url in [
        "mysql://u:secret@h/db",
        "shop",
        "postgres:/shop",
        "postgresql://localhost",
        "postgresql://u:secret@localhost/db?sslmod=require",
        "postgresql://u:secret@db.internal/shop",
        "postgresql://u:secret@db.internal/shop?sslmode=verify-ca",
    ] {
        let own = PgConnector::new(url).and_then(|connector| connector.connect().map(drop));
        let own = own.unwrap_err().to_string();
        assert_eq!(own, options().open(url).unwrap_err().to_string(), "{url}");
        assert!(!own.contains("secret"), "{own}");
    }
}

#[test]
fn a_server_that_is_not_there_is_named_without_the_password() {
    let connector = PgConnector::new("postgresql://u:secret@127.0.0.1:9/shop").unwrap();
    let error = connector.connect().map(drop).unwrap_err();
    assert!(matches!(error, Error::Open { .. }), "{error:?}");
    assert!(error.to_string().contains("127.0.0.1:9/shop"), "{error}");
    assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
}

#[test]
fn a_connector_shows_no_password() {
    let connector = PgConnector::new("postgresql://u:secret@localhost/shop").unwrap();
    assert!(!format!("{connector:?}").contains("secret"), "{connector:?}");
}

#[test]
fn a_file_has_no_server_to_connect_to() {
    let error = PgConnector::new("sqlite:shop.db").unwrap_err();
    assert!(error.to_string().contains("write postgresql://USER@HOST/DATABASE"), "{error}");
}
