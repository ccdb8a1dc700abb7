//! Encrypted connections: what each `sslmode` accepts and refuses, against a real server with a certificate.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use cluster::{Cluster, Settings};
use engine::{Context, Engine, Error, Result};

/// A server on a loopback port, and the port. With a certificate of this name it takes encrypted connections alone.
fn server(certificate: Option<&str>) -> Option<(Cluster, u16)> {
    cluster::try_shared()?;
    watch::test(watch::LIMIT);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let options = vec!["listen_addresses = '127.0.0.1'".into(), format!("port = {port}")];
    let mut settings = Settings { options, ..Settings::default() };
    if let Some(certificate) = certificate {
        settings.options.push("ssl = on".into());
        for (name, kind) in [("server.crt", "pem"), ("server.key", "key")] {
            let file = pem(&format!("{certificate}.{kind}"));
            settings.files.push((name.into(), std::fs::read_to_string(file).unwrap()));
        }
        let rules = "local all all trust\nhostssl all all 127.0.0.1/32 trust\n";
        settings.files.push(("pg_hba.conf".into(), rules.into()));
    }
    Some((Cluster::start(&settings).unwrap(), port))
}

fn pem(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
}

fn opened(url: &str) -> Result<Engine> {
    Engine::options().app("tls").open(url)
}

fn refusal(url: &str) -> String {
    let error = opened(url).map(drop).unwrap_err();
    assert!(matches!(error, Error::Open { .. }), "{error:?}");
    error.to_string()
}

#[test]
fn each_mode_accepts_and_refuses_what_it_should() {
    let Some((_server, port)) = server(Some("server")) else { return };
    let url = |host: &str, options: &str| format!("postgresql://postgres@{host}:{port}/tls?{options}");
    let (ca, other) = (pem("ca.pem").display().to_string(), pem("other.pem").display().to_string());

    let engine = opened(&url("localhost", &format!("sslmode=verify-full&sslrootcert={ca}"))).unwrap();
    let workflow = engine.register("w", |ctx: &mut Context, n: u32| {
        let n = ctx.step("s", |_| Ok::<_, Error>(n + 1))?;
        ctx.transaction("t", |tx| tx.query_one("SELECT $1::int8 + 1", [n])?.get::<i64>(0))
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    assert_eq!(workflow.start(&engine, 1).unwrap().result().unwrap(), 3);
    drop(engine);

    for accepted in ["sslmode=require", "sslmode=prefer", &format!("sslmode=require&sslrootcert={ca}")] {
        drop(opened(&url("localhost", accepted)).unwrap());
    }
    drop(opened(&url("127.0.0.1", "sslmode=require&channel_binding=prefer")).unwrap());

    let plain = refusal(&url("localhost", "sslmode=disable"));
    assert!(plain.contains("no encryption"), "the server wants encryption: {plain}");
    for (host, options) in [
        ("localhost", format!("sslmode=verify-full&sslrootcert={other}")),
        ("localhost", format!("sslmode=require&sslrootcert={other}")),
        ("localhost", "sslmode=verify-full".to_owned()),
        ("127.0.0.1", format!("sslmode=verify-full&sslrootcert={ca}")),
    ] {
        let refused = refusal(&url(host, &options));
        assert!(refused.contains("certificate"), "{host} {options}: {refused}");
    }
    let missing = refusal(&url("localhost", "sslmode=verify-full&sslrootcert=/no/such/file.pem"));
    assert!(missing.contains("sslrootcert /no/such/file.pem"), "{missing}");
    let empty =
        refusal(&url("localhost", &format!("sslrootcert={}&sslmode=require", pem("README.md").display())));
    assert!(empty.contains("holds no certificate"), "{empty}");
}

/// The certificate that a server makes for itself, and whose copy the program has.
#[test]
fn the_servers_own_certificate_is_accepted_as_its_root_under_its_name() {
    let Some((_server, port)) = server(Some("self")) else { return };
    let url = |host: &str, root: &str| {
        let root = pem(root).display().to_string();
        format!("postgresql://postgres@{host}:{port}/tls?sslmode=verify-full&sslrootcert={root}")
    };
    drop(opened(&url("localhost", "self.pem")).unwrap());
    for (host, root) in [("127.0.0.1", "self.pem"), ("localhost", "other.pem"), ("localhost", "ca.pem")] {
        let refused = refusal(&url(host, root));
        assert!(refused.contains("certificate"), "{host} {root}: {refused}");
    }
}

#[test]
fn a_server_without_encryption_is_refused_where_encryption_is_asked_for() {
    let Some((_server, port)) = server(None) else { return };
    let refused = refusal(&format!("postgresql://postgres@localhost:{port}/tls?sslmode=require"));
    assert!(refused.contains("does not support TLS"), "{refused}");
    drop(opened(&format!("postgresql://postgres@localhost:{port}/tls?sslmode=prefer")).unwrap());
}
