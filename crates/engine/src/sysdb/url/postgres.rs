//! URLs of PostgreSQL databases, as libpq and the DBOS SDKs write them.
//!
//! Each option is honoured or refused by name. A refusal never quotes a text that may be a part of a password.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

const PORT: u16 = 5432;

/// A PostgreSQL URL taken apart.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct PostgresUrl {
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Secret>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) database: String,
    tls: Option<Tls>,
    pub(crate) root_certificate: Option<PathBuf>,
    /// How many connections a pool has at most.
    pub(crate) pool_max: Option<usize>,
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) tcp_user_timeout: Option<Duration>,
    pub(crate) keepalives: Option<bool>,
    pub(crate) keepalives_idle: Option<Duration>,
    pub(crate) keepalives_interval: Option<Duration>,
    pub(crate) keepalives_count: Option<u32>,
    pub(crate) application_name: Option<String>,
    pub(crate) settings: Option<String>,
    /// Whether a server that takes no writes is passed over.
    pub(crate) read_write: bool,
    pub(crate) require_channel_binding: bool,
}

/// One server to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    Tcp { name: String, port: u16 },
    Socket { directory: PathBuf, port: u16 },
}

/// How the connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tls {
    Disable,
    /// If the server offers it. Protects from no active attack.
    Prefer,
    /// Encrypted, with any server.
    Require,
    /// Encrypted, and the server shows a certificate of its name.
    VerifyFull,
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Options of other programs, and the way to go instead.
const REFUSED: &[(&[&str], &str)] = &[
    (
        &["pool_size", "max_overflow", "connection_limit", "pool_max_conns", "max_pool_size"],
        "write pool_max=N for at most N connections",
    ),
    (
        &["pool_timeout", "pool_recycle", "pool_pre_ping", "pool_min_conns", "pool_max_conn_lifetime"],
        "the pool needs no tuning but pool_max=N",
    ),
    (
        &["pgbouncer", "prepared_statements", "statement_cache_size", "default_query_exec_mode"],
        "leave it out; the engine detects by itself whether a pooler keeps sessions",
    ),
    (
        &["schema", "currentschema", "search_path"],
        "the schema of the engine's tables is an option of the engine: EngineOptions::schema",
    ),
    (
        &["passfile", "service", "servicefile"],
        "the engine reads no settings files; write the settings into the URL",
    ),
    (
        &["sslcert", "sslkey", "sslpassword", "sslcrl", "sslcrldir", "sslcertmode"],
        "client certificates are not supported; use a password over TLS",
    ),
    (
        &["gssencmode", "krbsrvname", "gsslib", "gssdelegation", "requirepeer", "require_auth"],
        "this kind of authentication is not supported; use a password over TLS",
    ),
    (
        &[
            "ssl",
            "sslcompression",
            "requiressl",
            "sslsni",
            "ssl_min_protocol_version",
            "ssl_max_protocol_version",
        ],
        "write sslmode=disable, prefer, require or verify-full",
    ),
    (&["replication"], "the engine uses no replication connections; leave it out"),
    (&["fallback_application_name"], "write application_name"),
];

/// The known options, for a message.
const KNOWN: &str = "sslmode, sslrootcert, connect_timeout, tcp_user_timeout, keepalives, keepalives_idle, \
                     keepalives_interval, keepalives_count, application_name, options, target_session_attrs, \
                     channel_binding, client_encoding, host, port, user, password, dbname, pool_max";

impl PostgresUrl {
    /// Reads the URL after `scheme://`.
    pub(super) fn parse(rest: &str) -> Result<Self, String> {
        let (authority, path_and_query) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if path_and_query.contains(['@', '#']) {
            return Err(
                "characters such as @ : / ? # in a user name or a password must be percent-encoded".into()
            );
        }
        let path = path_and_query.split('?').next().unwrap_or_default();
        let hosts = authority.rsplit('@').next().unwrap_or_default();
        if path.contains(['=', '&']) || hosts.contains(['=', '&', ' ']) {
            return Err("the host or the database name holds a space, `=` or `&`, so it looks like options without a \
                        `?`. Write postgresql://USER@HOST/DATABASE?NAME=VALUE, or percent-encode these characters"
                .into());
        }
        let (user_info, hosts) = match authority.rsplit_once('@') {
            Some((user_info, hosts)) => (Some(user_info), hosts),
            None => (None, authority),
        };
        if user_info.is_some_and(|user_info| user_info.contains('@')) {
            return Err("an @ in a user name or a password must be written as %40".into());
        }
        let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
        let mut options = Options::parse(query)?;
        let (user, password) = match user_info.map(|info| info.split_once(':').unwrap_or((info, ""))) {
            Some((user, password)) => (decoded(user)?, decoded(password)?),
            None => (String::new(), String::new()),
        };
        let user = options.either("user", user)?;
        let password = options.either("password", password)?.map(Secret);
        let database = options.either("dbname", decoded(path.strip_prefix('/').unwrap_or(path))?)?;
        let hosts = hosts_of(hosts, &mut options)?;
        let url = Self {
            user,
            password,
            hosts,
            database: database.ok_or("it names no database; write postgresql://USER@HOST/DATABASE")?,
            tls: options.take("sslmode").map(|mode| Tls::parse(&mode)).transpose()?,
            root_certificate: options.take("sslrootcert").map(PathBuf::from),
            pool_max: options.number("pool_max", 1)?,
            connect_timeout: options.number("connect_timeout", 1)?.map(Duration::from_secs),
            tcp_user_timeout: options.number("tcp_user_timeout", 0)?.map(Duration::from_millis),
            keepalives: options.number::<u8>("keepalives", 0)?.map(|on| on != 0),
            keepalives_idle: options.number("keepalives_idle", 1)?.map(Duration::from_secs),
            keepalives_interval: options.number("keepalives_interval", 1)?.map(Duration::from_secs),
            keepalives_count: options.number("keepalives_count", 1)?,
            application_name: options.take("application_name"),
            settings: options.take("options"),
            read_write: options.choice("target_session_attrs", &["any", "read-write", "primary"])? > Some(0),
            require_channel_binding: options.choice("channel_binding", &["prefer", "disable", "require"])?
                == Some(2),
        };
        options.choice("client_encoding", &["utf8", "utf-8", "auto"])?;
        options.refuse_the_rest()?;
        Ok(url)
    }

    /// How the connection is to be encrypted. Nothing said: on this machine not at all, elsewhere with a server that
    /// shows who it is.
    pub(crate) fn tls(&self) -> Tls {
        let default = if self.hosts.iter().all(Host::is_local) { Tls::Disable } else { Tls::VerifyFull };
        self.tls.unwrap_or(default)
    }

    /// Refuses options that would send the password in the clear without being told to, and options that this program
    /// lacks.
    pub(crate) fn check_tls(&self, built_in: bool) -> Result<(), String> {
        let local = self.hosts.iter().all(Host::is_local);
        match self.tls() {
            Tls::Prefer if !local => Err("sslmode=prefer falls back to no encryption when an attacker on the network forces it; \
                                write sslmode=verify-full, or sslmode=disable for no encryption"
                .into()),
            Tls::Require | Tls::VerifyFull if !built_in && self.tls.is_some() => {
                Err("this program was built without the feature `tls`".into())
            }
            Tls::Require | Tls::VerifyFull if !built_in => {
                Err("the server is on another machine, and this program was built without the feature `tls`; build \
                     with it, or write sslmode=disable to go without encryption"
                    .into())
            }
            Tls::Disable | Tls::Prefer | Tls::Require | Tls::VerifyFull => Ok(()),
        }
    }
}

impl fmt::Display for PostgresUrl {
    /// Where it leads. Not the user either: without its colon, that is the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<_> = self.hosts.iter().map(Host::to_string).collect();
        write!(f, "postgresql://{}/{}", hosts.join(","), self.database.escape_debug())
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Host {
    /// Whether the bytes of this connection stay on this machine.
    fn is_local(&self) -> bool {
        match self {
            Self::Socket { .. } => true,
            Self::Tcp { name, .. } => {
                name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
            }
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { name, port } if name.contains(':') => write!(f, "[{name}]:{port}"),
            Self::Tcp { name, port } => write!(f, "{name}:{port}"),
            Self::Socket { directory, port } => write!(f, "{}:{port}", directory.display()),
        }
    }
}

impl Tls {
    fn parse(mode: &str) -> Result<Self, String> {
        match mode {
            "disable" => Ok(Self::Disable),
            "prefer" => Ok(Self::Prefer),
            "require" => Ok(Self::Require),
            "verify-full" => Ok(Self::VerifyFull),
            "allow" => {
                Err("sslmode=allow protects from nothing; write disable, prefer, require or verify-full"
                    .into())
            }
            "verify-ca" => {
                Err("sslmode=verify-ca does not look at the server's name; write verify-full".into())
            }
            _ => Err("sslmode must be disable, prefer, require or verify-full".into()),
        }
    }
}

/// The options of a query, each at most once.
struct Options(BTreeMap<String, String>);

impl Options {
    fn parse(query: &str) -> Result<Self, String> {
        let mut options = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) =
                pair.split_once('=').ok_or("an option after `?` has no value; write NAME=VALUE")?;
            let name = decoded(name)?.to_ascii_lowercase();
            let named = shown(&name);
            if options.insert(name, decoded(value)?).is_some() {
                return Err(format!("{named} is given twice"));
            }
        }
        Ok(Self(options))
    }

    fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    /// The value before the URL's `?`, or the option of that name; not both.
    fn either(&mut self, name: &str, given: String) -> Result<Option<String>, String> {
        match (given.is_empty(), self.take(name)) {
            (true, option) => Ok(option.filter(|option| !option.is_empty())),
            (false, None) => Ok(Some(given)),
            (false, Some(_)) => Err(format!("option `{name}` is given twice: before the `?` and after it")),
        }
    }

    fn number<N: std::str::FromStr + PartialOrd + fmt::Display + Copy>(
        &mut self,
        name: &str,
        min: N,
    ) -> Result<Option<N>, String> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match value.parse() {
            Ok(number) if number >= min => Ok(Some(number)),
            _ => Err(format!("option `{name}` must be a number of at least {min}")),
        }
    }

    /// Which of these the option is.
    fn choice(&mut self, name: &str, choices: &[&str]) -> Result<Option<usize>, String> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let found = choices.iter().position(|choice| value.eq_ignore_ascii_case(choice));
        found.map(Some).ok_or_else(|| format!("option `{name}` can be {}", choices.join(" or ")))
    }

    fn refuse_the_rest(&self) -> Result<(), String> {
        let Some(name) = self.0.keys().next() else { return Ok(()) };
        let refused = REFUSED.iter().find(|(names, _)| names.contains(&name.as_str()));
        Err(match refused {
            Some((_, instead)) => format!("option `{name}` is not supported: {instead}"),
            // A password with a raw & or ? in it is read as an option.
            None => format!(
                "an option after `?` is not known; known are {KNOWN}. Characters such as & in a password must be \
                 percent-encoded"
            ),
        })
    }
}

/// An option by its name, if the name is known: an unknown one may be a part of a password.
fn shown(name: &str) -> String {
    let is_refused = || REFUSED.iter().any(|(names, _)| names.contains(&name));
    if KNOWN.split(", ").any(|known| known == name) || is_refused() {
        format!("option `{name}`")
    } else {
        "an option after `?`".to_owned()
    }
}

/// The servers, in the order in which they are tried.
fn hosts_of(authority: &str, options: &mut Options) -> Result<Vec<Host>, String> {
    let (names, ports) = match (authority.is_empty(), options.take("host"), options.take("port")) {
        (false, None, None) => {
            let parts: Vec<_> = authority.split(',').map(split_port).collect::<Result<_, _>>()?;
            parts.into_iter().unzip()
        }
        (true, Some(hosts), ports) => {
            let names: Vec<_> = hosts.split(',').map(str::to_owned).collect();
            let ports =
                ports.map(|ports| ports.split(',').map(port).collect::<Result<Vec<_>, _>>()).transpose()?;
            let ports = match ports.as_deref() {
                None => vec![PORT; names.len()],
                Some([one]) => vec![*one; names.len()],
                Some(many) if many.len() == names.len() => many.to_vec(),
                Some(_) => return Err("there are not as many ports as hosts".into()),
            };
            (names, ports)
        }
        (true, None, _) => {
            return Err("it names no host; write postgresql://USER@HOST/DATABASE, or \
                        ?host=/var/run/postgresql for the socket of this machine"
                .into());
        }
        (false, ..) => return Err("host and port are given twice: before the `?` and after it".into()),
    };
    let host = |(name, port): (String, u16)| {
        if name.is_empty() {
            return Err("a host is empty".to_owned());
        }
        Ok(if name.starts_with('/') {
            Host::Socket { directory: name.into(), port }
        } else {
            Host::Tcp { name, port }
        })
    };
    names.into_iter().zip(ports).map(host).collect()
}

/// `HOST`, `HOST:PORT`, `[IPV6]:PORT`.
fn split_port(text: &str) -> Result<(String, u16), String> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').ok_or("an IPv6 address has no closing bracket")?;
        let is_address = address.parse::<std::net::Ipv6Addr>().is_ok();
        let port = rest.strip_prefix(':').map_or(Ok(PORT), port)?;
        return if is_address {
            Ok((address.to_owned(), port))
        } else {
            Err("the text in brackets is not an IPv6 address".into())
        };
    }
    match text.split_once(':') {
        None => Ok((decoded(text)?, PORT)),
        Some((host, "")) => Ok((decoded(host)?, PORT)),
        Some((host, number)) => Ok((decoded(host)?, port(number)?)),
    }
}

/// Not shown when it is none: without an `@` it may be a password.
fn port(text: &str) -> Result<u16, String> {
    let number: u16 = text.parse().map_err(|_| "a port must be a number from 1 to 65535")?;
    if number == 0 { Err("a port must be a number from 1 to 65535".into()) } else { Ok(number) }
}

/// Percent-encoding undone.
fn decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        match (digit(rest.next()), digit(rest.next())) {
            (Some(high), Some(low)) => bytes.push(u8::try_from(high * 16 + low).unwrap_or_default()),
            _ => {
                return Err(
                    "a `%` must be followed by two hexadecimal digits; write %25 for the character %".into(),
                );
            }
        }
    }
    let text = String::from_utf8(bytes).map_err(|_| "the percent-encoded bytes are not UTF-8")?;
    if text.contains('\0') { Err("it holds a NUL character".into()) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sysdb::Url;

    fn parsed(url: &str) -> PostgresUrl {
        let Url::Postgres(url) = Url::parse(url).unwrap() else { panic!("not PostgreSQL") };
        *url
    }

    fn refusal(url: &str) -> String {
        Url::parse(url).unwrap_err().to_string()
    }

    fn tcp(name: &str, port: u16) -> Host {
        Host::Tcp { name: name.into(), port }
    }

    #[test]
    fn what_libpq_shows_is_understood() {
        let url = parsed(
            "postgresql://trustle:s3%40cret@db.example:6432/shop?sslmode=verify-full&connect_timeout=3",
        );
        assert_eq!(url.user.as_deref(), Some("trustle"));
        assert_eq!(url.password.as_ref().map(Secret::reveal), Some("s3@cret"));
        assert_eq!(
            (url.hosts.as_slice(), url.database.as_str()),
            ([tcp("db.example", 6432)].as_slice(), "shop")
        );
        assert_eq!((url.tls(), url.connect_timeout), (Tls::VerifyFull, Some(Duration::from_secs(3))));

        assert_eq!(parsed("postgres://a,b:1/x").hosts, [tcp("a", PORT), tcp("b", 1)]);
        assert_eq!(parsed("postgresql://u@[::1]:7/x").hosts, [tcp("::1", 7)]);
        assert_eq!(parsed("postgresql:///x?host=a,b&port=1,2").hosts, [tcp("a", 1), tcp("b", 2)]);
        let socket = [Host::Socket { directory: "/tmp/s".into(), port: PORT }];
        assert_eq!(parsed("postgresql://postgres@/x?host=/tmp/s").hosts, socket);
        assert_eq!(parsed("postgresql://%2Ftmp%2Fs/x").hosts, socket);
        assert_eq!(parsed("postgresql://h?dbname=x&user=u&password=p").user.as_deref(), Some("u"));
        assert_eq!(parsed("postgresql+psycopg://u:p@h:5/x").hosts, [tcp("h", 5)], "as SQLAlchemy writes it");
        assert_eq!(parsed("postgresql://h/x?pool_max=1").pool_max, Some(1));
    }

    #[test]
    fn what_is_not_understood_is_refused_by_its_name() {
        for (url, says) in [
            ("postgresql://h", "no database"),
            ("postgresql:///x", "names no host"),
            ("postgresql:h/x", "two slashes"),
            ("postgresql://h:0/x", "port"),
            ("postgresql://h:65536/x", "port"),
            ("postgresql://h,/x", "host is empty"),
            ("postgresql://[::1/x", "bracket"),
            ("postgresql://h/x?sslmode=allow", "sslmode=allow"),
            ("postgresql://h/x?sslmode=verify-ca", "verify-full"),
            ("postgresql://h/x?sslmode=on", "sslmode must be disable"),
            ("postgresql://h/x?pool_size=5", "`pool_size` is not supported: write pool_max"),
            ("postgresql://h/x?pgbouncer=true", "`pgbouncer`"),
            ("postgresql://h/x?sslcert=a", "`sslcert`"),
            ("postgresql://h/x?currentSchema=a", "EngineOptions::schema"),
            ("postgresql://h/x?what=a", "an option after `?` is not known; known are sslmode"),
            ("postgresql://h/x?what=a&what=b", "an option after `?` is given twice"),
            ("postgresql://h/x?pool_max=0", "`pool_max` must be a number of at least 1"),
            ("postgresql://h/x?connect_timeout=soon", "`connect_timeout`"),
            (
                "postgresql://h/x?target_session_attrs=standby",
                "`target_session_attrs` can be any or read-write",
            ),
            ("postgresql://h/x?client_encoding=latin1", "`client_encoding`"),
            ("postgresql://h/x?sslmode", "has no value"),
            ("postgresql://h/x?user=a&user=b", "`user` is given twice"),
            ("postgresql://a@h/x?user=b", "`user` is given twice"),
            ("postgresql://h/x?host=b", "given twice"),
            ("postgresql:///x?host=a,b&port=1,2,3", "as many ports"),
            ("postgresql://h/xuser=u&password=p", "looks like options"),
            ("postgresql://host=h password=p/x", "looks like options"),
            ("postgresql://h/%zz", "hexadecimal"),
            ("postgresql://h/%ff", "UTF-8"),
            ("postgresql://h/%00", "NUL"),
            ("postgresql://u:p/w@h/x", "percent-encoded"),
            ("postgresql://u:p@w@h/x", "%40"),
        ] {
            assert!(refusal(url).contains(says), "{url}: {}", refusal(url));
        }
    }

    #[test]
    fn nothing_goes_in_the_clear_to_another_machine_unless_told() {
        let check = |url: &str, built_in| parsed(url).check_tls(built_in);
        for local in [
            "postgresql://localhost/x",
            "postgresql://127.0.0.1/x",
            "postgresql://[::1]/x",
            "postgresql://%2Ftmp/x",
        ] {
            assert_eq!(parsed(local).tls(), Tls::Disable);
            assert_eq!(check(local, false), Ok(()));
        }
        assert_eq!(parsed("postgresql://h/x").tls(), Tls::VerifyFull);
        assert!(check("postgresql://h/x", false).unwrap_err().contains("another machine"));
        assert_eq!(check("postgresql://h/x", true), Ok(()));
        assert_eq!(check("postgresql://h/x?sslmode=disable", false), Ok(()));
        assert!(check("postgresql://h/x?sslmode=prefer", true).unwrap_err().contains("falls back"));
        assert!(
            check("postgresql://localhost/x?sslmode=require", false).unwrap_err().contains("feature `tls`")
        );
    }

    /// No password is shown, also when the URL is cut anywhere, or a character is put in or taken out anywhere.
    #[test]
    fn no_part_of_a_password_is_ever_shown() {
        const SECRET: &str = "Xq7Zk9Wv";
        let url = format!("postgresql://user:{SECRET}@host:5432/shop?sslmode=disable&pool_max=3");
        let in_the_query = format!("postgresql://h/x?user=u&password={SECRET}&sslmode=disable");
        let of_libpq = format!("host=h user=u password={SECRET} dbname=x");
        let mut spoilt = Vec::new();
        for url in [url, in_the_query, of_libpq] {
            spoilt.push(url.clone());
            for at in 0..=url.len() {
                spoilt.push(url[..at].to_owned());
                spoilt.extend((at < url.len()).then(|| format!("{}{}", &url[..at], &url[at + 1..])));
                for c in
                    ["@", ":", "/", "?", "#", "&", "=", "%", ",", "[", "]", " ", "&a=", "=1&", "?a=", "://"]
                {
                    spoilt.push(format!("{}{c}{}", &url[..at], &url[at..]));
                }
            }
        }
        for url in spoilt {
            let shown = match Url::parse(&url) {
                Ok(parsed) => format!("{parsed:?}"),
                Err(error) => format!("{error} {error:?}"),
            };
            for part in SECRET.as_bytes().windows(4) {
                let part = std::str::from_utf8(part).unwrap();
                let part = part.to_ascii_lowercase();
                assert!(!shown.to_ascii_lowercase().contains(&part), "{url} is shown as {shown}");
            }
        }
    }
}
