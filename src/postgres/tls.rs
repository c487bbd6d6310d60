//! TLS to the source: when, with which certificates, and what binds authentication to it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring as ring_provider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::failure::{Failure, Result};

/// libpq's `sslmode`, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl Mode {
    pub(super) const ALL: [Mode; 6] =
        [Mode::Disable, Mode::Allow, Mode::Prefer, Mode::Require, Mode::VerifyCa, Mode::VerifyFull];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Mode::Disable => "disable",
            Mode::Allow => "allow",
            Mode::Prefer => "prefer",
            Mode::Require => "require",
            Mode::VerifyCa => "verify-ca",
            Mode::VerifyFull => "verify-full",
        }
    }
}

/// The TLS part of a source.
#[derive(Debug, Clone)]
pub(super) struct TlsRules {
    pub(super) mode: Mode,
    /// Trusted certificates; `None` means the operating system's.
    pub(super) roots: Option<PathBuf>,
    /// The client's certificate chain and its key.
    pub(super) client: Option<(PathBuf, PathBuf)>,
    /// Starts TLS without asking first, which servers from version 17 on take.
    pub(super) direct: bool,
}

impl TlsRules {
    /// What to check of the server's certificate. A root that is there makes `require` check it, as in libpq.
    fn trust(&self) -> Trust {
        match self.mode {
            Mode::VerifyFull => Trust::IssuerAndName,
            Mode::VerifyCa => Trust::Issuer,
            Mode::Require if self.roots.is_some() => Trust::Issuer,
            _ => Trust::Anybody,
        }
    }

    /// Reads the certificates and makes the configuration of every connection.
    ///
    /// # Errors
    /// [`Category::Failed`](crate::failure::Category::Failed) where a file cannot be read or holds no certificate.
    pub(super) fn client_config(&self) -> Result<Arc<ClientConfig>> {
        // Given by hand, since a process with several providers has no default one.
        let provider = Arc::new(ring_provider::default_provider());
        let verifier = Arc::new(SourceVerifier::new(self, provider.clone())?);
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match &self.client {
            Some((chain, key)) => {
                builder.with_client_auth_cert(read_certificates(chain)?, read_key(key)?).map_err(unusable)?
            }
            None => builder.with_no_client_auth(),
        };
        if self.direct {
            config.alpn_protocols = vec![b"postgresql".to_vec()];
        }
        Ok(Arc::new(config))
    }
}

fn unusable(error: rustls::Error) -> Failure {
    Failure::failed(format!("TLS cannot be set up: {error}"))
        .remedy("check the files of sslrootcert, sslcert and sslkey")
}

fn unreadable(path: &Path, what: &str, why: impl std::fmt::Display) -> Failure {
    Failure::failed(format!("{what} {}: {why}", path.display())).remedy("name a readable PEM file")
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let wrong = |why: &dyn std::fmt::Display| unreadable(path, "certificate file", why);
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| wrong(&error))?;
    let certificates = certificates.collect::<Result<Vec<_>, _>>().map_err(|error| wrong(&error))?;
    if certificates.is_empty() { Err(wrong(&"it holds no certificate")) } else { Ok(certificates) }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| unreadable(path, "key file", error))
}

fn trusted_certificates(rules: &TlsRules) -> Result<Vec<CertificateDer<'static>>> {
    let Some(path) = &rules.roots else {
        let found = rustls_native_certs::load_native_certs();
        for error in found.errors {
            tracing::debug!(%error, "part of the system's trusted certificates is passed over");
        }
        return Ok(found.certs);
    };
    read_certificates(path)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    Anybody,
    Issuer,
    IssuerAndName,
}

/// Checks the server's certificate as far as the mode asks. That the server holds the certificate's
/// key is checked always: channel binding rests on it.
#[derive(Debug)]
struct SourceVerifier {
    /// `None` trusts anybody.
    chain: Option<Arc<WebPkiServerVerifier>>,
    names_matter: bool,
    trusted: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl SourceVerifier {
    fn new(rules: &TlsRules, provider: Arc<CryptoProvider>) -> Result<SourceVerifier> {
        let trust = rules.trust();
        let trusted = if trust == Trust::Anybody { Vec::new() } else { trusted_certificates(rules)? };
        let chain = if trust == Trust::Anybody { None } else { Some(chain_verifier(&trusted, provider.clone())?) };
        Ok(SourceVerifier { chain, names_matter: trust == Trust::IssuerAndName, trusted, provider })
    }

    fn check(
        &self,
        outcome: Result<ServerCertVerified, rustls::Error>,
        certificate: &CertificateDer<'_>,
        name: &ServerName<'_>,
    ) -> Result<(), rustls::Error> {
        use CertificateError as Certificate;
        match outcome {
            // The chain is checked before the name, so a wrong name means a right chain.
            Err(rustls::Error::InvalidCertificate(
                Certificate::NotValidForName | Certificate::NotValidForNameContext { .. },
            )) if !self.names_matter => Ok(()),
            Err(rustls::Error::InvalidCertificate(Certificate::Other(why))) if self.is_pinned(certificate, &why) => {
                if self.names_matter {
                    verify_server_name(&ParsedCertificate::try_from(certificate)?, name)
                } else {
                    Ok(())
                }
            }
            // Untrusted in words that help: web PKI's objection is beside the point.
            Err(rustls::Error::InvalidCertificate(Certificate::Other(why))) if is_authority_objection(&why) => {
                Err(Certificate::UnknownIssuer.into())
            }
            other => other.map(|_| ()),
        }
    }

    /// A self-signed server certificate that is itself the trusted file. It is a certificate
    /// authority by its extensions, which web PKI does not take from a server but OpenSSL does; its dates
    /// have been checked by the time this is the objection.
    fn is_pinned(&self, certificate: &CertificateDer<'_>, why: &rustls::OtherError) -> bool {
        is_authority_objection(why) && self.trusted.iter().any(|trusted| trusted.as_ref() == certificate.as_ref())
    }
}

/// Whether a certificate is refused for being an authority's, which rustls says in this way only.
fn is_authority_objection(why: &rustls::OtherError) -> bool {
    why.0.to_string() == "CaUsedAsEndEntity"
}

fn chain_verifier(
    trusted: &[CertificateDer<'static>],
    provider: Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(trusted.iter().cloned());
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().map_err(|error| {
        Failure::failed(format!("no usable trusted certificate: {error}"))
            .remedy("name the certificate authority that signed the server's certificate: sslrootcert=FILE")
    })
}

impl ServerCertVerifier for SourceVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(chain) = &self.chain {
            let outcome = chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
            self.check(outcome, end_entity, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The `tls-server-end-point` binding of a certificate (RFC 5929, 4.1): its hash by its signature's hash
/// function, with SHA-256 in the place of MD5 and SHA-1. `None` for signatures that name none
/// (Ed25519, RSASSA-PSS): PostgreSQL itself cannot bind to the former.
pub(super) fn end_point_binding(certificate: &[u8]) -> Option<Vec<u8>> {
    let algorithm = match signature_algorithm(certificate)? {
        RSA_MD5 | RSA_SHA1 | RSA_SHA256 | ECDSA_SHA1 | ECDSA_SHA256 => &ring::digest::SHA256,
        RSA_SHA384 | ECDSA_SHA384 => &ring::digest::SHA384,
        RSA_SHA512 | ECDSA_SHA512 => &ring::digest::SHA512,
        _ => return None,
    };
    Some(ring::digest::digest(algorithm, certificate).as_ref().to_vec())
}

const RSA_MD5: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 4];
const RSA_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 5];
const RSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11];
const RSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 12];
const RSA_SHA512: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 13];
const ECDSA_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1];
const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
const ECDSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3];
const ECDSA_SHA512: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 4];

const DER_SEQUENCE: u8 = 0x30;
const DER_OBJECT_IDENTIFIER: u8 = 0x06;

/// The identifier in `Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm SEQUENCE { identifier, … }, … }`.
fn signature_algorithm(certificate: &[u8]) -> Option<&[u8]> {
    let (fields, _) = der_element(certificate, DER_SEQUENCE)?;
    let (_, after_body) = der_element(fields, DER_SEQUENCE)?;
    let (algorithm, _) = der_element(after_body, DER_SEQUENCE)?;
    der_element(algorithm, DER_OBJECT_IDENTIFIER).map(|(identifier, _)| identifier)
}

/// Splits the element at the front of `input` into its content and what follows it.
fn der_element(input: &[u8], expected: u8) -> Option<(&[u8], &[u8])> {
    let (&[tag, first], rest) = input.split_first_chunk::<2>()?;
    if tag != expected {
        return None;
    }
    if first < 0x80 {
        return rest.split_at_checked(usize::from(first));
    }
    let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f)).filter(|(length, _)| length.len() <= 4)?;
    let length = length.iter().fold(0usize, |sum, byte| sum << 8 | usize::from(*byte));
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests;
