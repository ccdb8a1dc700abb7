//! How connections are encrypted.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
#[cfg(feature = "tls")]
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{ChannelBinding, TlsStream};
#[cfg(feature = "tls")]
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect as _};
use tokio_postgres::{Config, Error, NoTls, Socket};

use super::link::{Driver, Halves};
use crate::pure::error::BoxError;
use crate::sysdb::{PostgresUrl, Tls};

/// The encryption that the URL asks for, ready to connect with.
#[derive(Clone)]
pub(super) enum Encryption {
    None,
    #[cfg(feature = "tls")]
    Rustls(Box<tokio_postgres_rustls::MakeRustlsConnect>),
}

/// Carries bytes, encrypted or not.
pub(super) enum Carrier {
    Plain(Socket),
    #[cfg(feature = "tls")]
    Encrypted(Box<<tokio_postgres_rustls::MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>),
}

/// The parts of both.
trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

impl Carrier {
    fn stream(&mut self) -> Pin<&mut dyn Stream> {
        match self {
            Self::Plain(socket) => Pin::new(socket),
            #[cfg(feature = "tls")]
            Self::Encrypted(stream) => Pin::new(stream.as_mut()),
        }
    }
}

impl AsyncRead for Carrier {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream().poll_read(cx, buf)
    }
}

impl AsyncWrite for Carrier {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.stream().poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }
}

impl TlsStream for Carrier {
    fn channel_binding(&self) -> ChannelBinding {
        match self {
            Self::Plain(_) => ChannelBinding::none(),
            #[cfg(feature = "tls")]
            Self::Encrypted(stream) => stream.channel_binding(),
        }
    }
}

impl Encryption {
    /// Reads the certificates that the URL names.
    #[cfg_attr(
        not(feature = "tls"),
        expect(clippy::unnecessary_wraps, reason = "without TLS nothing is read")
    )]
    pub(super) fn of(url: &PostgresUrl) -> Result<Self, String> {
        match url.tls() {
            Tls::Disable => Ok(Self::None),
            #[cfg(feature = "tls")]
            tls => {
                let config = rustls_config::of(tls, url.root_certificate.as_deref())?;
                Ok(Self::Rustls(Box::new(tokio_postgres_rustls::MakeRustlsConnect::new(config))))
            }
            // A URL that needs encryption was refused before.
            #[cfg(not(feature = "tls"))]
            Tls::Prefer | Tls::Require | Tls::VerifyFull => Ok(Self::None),
        }
    }

    /// A session, driven by its caller.
    pub(super) async fn connect(&self, config: &Config) -> Result<Halves, Error> {
        Ok(match self {
            Self::None => boxed(config.connect(NoTls).await?),
            #[cfg(feature = "tls")]
            Self::Rustls(tls) => boxed(config.connect(tls.as_ref().clone()).await?),
        })
    }

    #[cfg_attr(not(feature = "tls"), expect(clippy::unused_async, reason = "TLS waits for the server"))]
    /// The carrier for one driver alone: it moves the bytes on a socket to a server that has had no request yet.
    pub(super) async fn carry(
        &self,
        socket: Socket,
        mode: SslMode,
        domain: &str,
    ) -> Result<Carrier, BoxError> {
        match self {
            Self::None => {
                let _ = (mode, domain);
                Ok(Carrier::Plain(socket))
            }
            #[cfg(feature = "tls")]
            Self::Rustls(tls) => {
                let mut socket = socket;
                if mode == SslMode::Disable {
                    return Ok(Carrier::Plain(socket));
                }
                if !agrees_to_encrypt(&mut socket).await? {
                    let refused = || "the server does not support TLS".into();
                    return if mode == SslMode::Prefer { Ok(Carrier::Plain(socket)) } else { Err(refused()) };
                }
                let mut tls = tls.as_ref().clone();
                let handshake = MakeTlsConnect::<Socket>::make_tls_connect(&mut tls, domain)?;
                Ok(Carrier::Encrypted(Box::new(handshake.connect(socket).await?)))
            }
        }
    }
}

/// Asks the server whether it encrypts.
#[cfg(feature = "tls")]
async fn agrees_to_encrypt(socket: &mut Socket) -> io::Result<bool> {
    // A length of eight bytes, and the code of the request.
    socket.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).await?;
    Ok(socket.read_u8().await? == b'S')
}

fn boxed<T>((client, connection): (tokio_postgres::Client, tokio_postgres::Connection<Socket, T>)) -> Halves
where
    T: TlsStream + Unpin + Send + 'static,
{
    (client, Box::new(connection) as Box<dyn Driver>)
}

#[cfg(feature = "tls")]
mod rustls_config {
    use std::path::Path;
    use std::sync::Arc;

    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::client::{WebPkiServerVerifier, verify_server_name};
    use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::server::ParsedCertificate;
    use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
    use rustls_platform_verifier::BuilderVerifierExt as _;

    use crate::sysdb::Tls;

    /// The name that libpq gives to the certificates of the system.
    const SYSTEM: &str = "system";

    /// The server's certificate and its name are checked against a file of roots or the system's roots. As in libpq,
    /// `prefer` checks neither, nor does `require` without a file.
    pub(super) fn of(tls: Tls, roots: Option<&Path>) -> Result<ClientConfig, String> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone());
        let builder = builder.with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
        let file = roots.filter(|roots| roots.as_os_str() != SYSTEM);
        let builder = match (tls, file) {
            (Tls::Prefer, _) | (Tls::Require, None) if roots.is_none() => {
                builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider)))
            }
            (_, Some(file)) => {
                let verifier = Arc::new(FromFile::read(file, provider)?);
                builder.dangerous().with_custom_certificate_verifier(verifier)
            }
            (_, None) => builder.with_platform_verifier().map_err(|e| {
                format!("the certificates of this system cannot be used: {e}; name a file by sslrootcert")
            })?,
        };
        Ok(builder.with_no_client_auth())
    }

    /// Trusts certificates that a certificate of the file signed, and each of these as the server's own.
    #[derive(Debug)]
    struct FromFile {
        certificates: Vec<CertificateDer<'static>>,
        roots: Arc<WebPkiServerVerifier>,
    }

    impl FromFile {
        fn read(file: &Path, provider: Arc<CryptoProvider>) -> Result<Self, String> {
            let refuse = |reason: String| format!("sslrootcert {}: {reason}", file.display());
            let (mut certificates, mut roots) = (Vec::new(), RootCertStore::empty());
            for certificate in CertificateDer::pem_file_iter(file).map_err(|e| refuse(e.to_string()))? {
                let certificate = certificate.map_err(|e| refuse(e.to_string()))?;
                roots.add(certificate.clone()).map_err(|e| refuse(e.to_string()))?;
                certificates.push(certificate);
            }
            if certificates.is_empty() {
                return Err(refuse("it holds no certificate".to_owned()));
            }
            let roots = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
            Ok(Self { certificates, roots: roots.map_err(|e| refuse(e.to_string()))? })
        }
    }

    impl ServerCertVerifier for FromFile {
        /// A certificate that a server signed for itself may mostly sign others. As that of a server it is refused for
        /// this alone, after its dates were found good. In the file it says that it is the server's.
        fn verify_server_cert(
            &self,
            server: &CertificateDer<'_>,
            between: &[CertificateDer<'_>],
            name: &ServerName<'_>,
            ocsp: &[u8],
            now: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            match self.roots.verify_server_cert(server, between, name, ocsp, now) {
                Err(rustls::Error::InvalidCertificate(CertificateError::Other(reason)))
                    if self.certificates.contains(server)
                        && format!("{reason:?}").contains("CaUsedAsEndEntity") =>
                {
                    verify_server_name(&ParsedCertificate::try_from(server)?, name)?;
                    Ok(ServerCertVerified::assertion())
                }
                verified => verified,
            }
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            self.roots.verify_tls12_signature(message, certificate, signature)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            self.roots.verify_tls13_signature(message, certificate, signature)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.roots.supported_verify_schemes()
        }
    }

    /// Encrypts to any server that answers: safe from listeners, not from a party in between.
    #[derive(Debug)]
    struct Anyone(Arc<CryptoProvider>);

    impl ServerCertVerifier for Anyone {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }
}
