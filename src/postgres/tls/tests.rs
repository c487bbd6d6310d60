use super::*;

/// Signed by itself, an authority by its extensions as `openssl req -x509` makes them, for the name localhost,
/// valid for a hundred years.
const SELF_SIGNED: &str = "\
-----BEGIN CERTIFICATE-----
MIIBlTCCATugAwIBAgIUIfKYfYm61YHCQL5ahRwHUMJZnnEwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMTAxMTgxMFoYDzIxMjYxMDI4
MDExODEwWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAARAa94YRxcZQ22Yzaq1kFBJwmylHS8XVweiDd83p2FiZW8SgX6A5lHG
RtwJx/eYBlpg1fIG8xLcDTwoYbB4+72so2kwZzAdBgNVHQ4EFgQU6S6dh1i9yzKS
w5IYK5mTGYg54kQwHwYDVR0jBBgwFoAU6S6dh1i9yzKSw5IYK5mTGYg54kQwDwYD
VR0TAQH/BAUwAwEB/zAUBgNVHREEDTALgglsb2NhbGhvc3QwCgYIKoZIzj0EAwID
SAAwRQIgWCTk9izVf898NYd6uWL4KlfgBVDCotlrNNaBy+h8BMkCIQD+Qkxjxsx6
65FatbgHbDGFzwYzeuKPAnrvABfnQb318w==
-----END CERTIFICATE-----
";

const OTHER_ROOT: &str = "\
-----BEGIN CERTIFICATE-----
MIIBdzCCAR2gAwIBAgIUIbeCdJzFY2TzRsVPZlJi+3RV2AAwCgYIKoZIzj0EAwIw
EDEOMAwGA1UEAwwFb3RoZXIwIBcNMjYxMTIxMDExODEwWhgPMjEyNjEwMjgwMTE4
MTBaMBAxDjAMBgNVBAMMBW90aGVyMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE
MLUVHSLwbwBj8Wz5zYNX52sijKq1xExYV06XCEOWxJ30hvXzEnwxFYuprnO/neOu
auCRpBO2Sx2Ub3cvIRjYLKNTMFEwHQYDVR0OBBYEFH6r4UgiDbPgOKTeHi5+acbm
XDVuMB8GA1UdIwQYMBaAFH6r4UgiDbPgOKTeHi5+acbmXDVuMA8GA1UdEwEB/wQF
MAMBAf8wCgYIKoZIzj0EAwIDSAAwRQIhALjM9/r77iqGok9G7ZawVqpVdeNpLRiz
LMsD4olpP+A2AiAOb+dmclcVhElyWpj4MnRQgtYoGHqJDoTldT6YKRB7TA==
-----END CERTIFICATE-----
";

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    match content.len() {
        short @ 0..0x80 => bytes.push(short as u8),
        long => bytes.extend([&[0x82], &(long as u16).to_be_bytes()[..]].concat()),
    }
    [&bytes, content].concat()
}

fn certificate(algorithm: &[u8]) -> Vec<u8> {
    let body = der(DER_SEQUENCE, &[1; 300]);
    let algorithm = der(DER_SEQUENCE, &der(DER_OBJECT_IDENTIFIER, algorithm));
    der(DER_SEQUENCE, &[body, algorithm].concat())
}

#[test]
fn the_binding_takes_the_signatures_hash() {
    for (algorithm, length) in [(RSA_SHA1, 32), (RSA_SHA256, 32), (ECDSA_SHA384, 48), (RSA_SHA512, 64)] {
        assert_eq!(end_point_binding(&certificate(algorithm)).map(|hash| hash.len()), Some(length));
    }
    assert_eq!(end_point_binding(&certificate(&[0x2b, 0x65, 0x70])), None);
}

#[test]
fn a_certificate_cut_anywhere_has_no_binding() {
    let whole = certificate(RSA_SHA256);
    for cut in 0..whole.len() {
        assert_eq!(end_point_binding(&whole[..cut]), None, "cut at {cut}");
    }
}

#[test]
fn a_root_makes_require_check_the_issuer() {
    let rules =
        |mode, roots: Option<&str>| TlsRules { mode, roots: roots.map(PathBuf::from), client: None, direct: false };
    assert_eq!(rules(Mode::Require, None).trust(), Trust::Anybody);
    assert_eq!(rules(Mode::Require, Some("root.crt")).trust(), Trust::Issuer);
    assert_eq!(rules(Mode::Prefer, Some("root.crt")).trust(), Trust::Anybody);
    assert_eq!(rules(Mode::VerifyCa, None).trust(), Trust::Issuer);
    assert_eq!(rules(Mode::VerifyFull, None).trust(), Trust::IssuerAndName);
}

/// What a verifier with these trusted certificates says of the self-signed one.
fn verdict(mode: Mode, trusted: &str, name: &'static str) -> Result<(), rustls::Error> {
    let path = std::env::temp_dir().join(format!("afterimage-roots-{}", uuid::Uuid::new_v4()));
    std::fs::write(&path, trusted).unwrap();
    let rules = TlsRules { mode, roots: Some(path.clone()), client: None, direct: false };
    let verifier = SourceVerifier::new(&rules, Arc::new(ring_provider::default_provider()));
    std::fs::remove_file(&path).unwrap();
    let certificate = CertificateDer::from_pem_slice(SELF_SIGNED.as_bytes()).unwrap();
    let name = ServerName::try_from(name).unwrap();
    verifier.unwrap().verify_server_cert(&certificate, &[], &name, &[], UnixTime::now()).map(|_| ())
}

#[test]
fn a_certificate_that_signed_itself_is_trusted_where_it_is_the_root() {
    assert_eq!(verdict(Mode::VerifyFull, SELF_SIGNED, "localhost"), Ok(()));
    assert_eq!(verdict(Mode::VerifyCa, SELF_SIGNED, "elsewhere.example"), Ok(()));
    assert!(verdict(Mode::VerifyFull, SELF_SIGNED, "elsewhere.example").is_err());
    let unknown = Err(CertificateError::UnknownIssuer.into());
    assert_eq!(verdict(Mode::VerifyCa, OTHER_ROOT, "localhost"), unknown);
}

#[test]
fn a_root_file_without_certificates_is_refused() {
    let rules = TlsRules { mode: Mode::VerifyCa, roots: Some("/dev/null".into()), client: None, direct: false };
    assert!(rules.client_config().is_err());
}
