//! SCRAM-SHA-256 as the server does it (RFC 5802, RFC 7677).

use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hmac, pbkdf2};

use super::error::SqlError;

/// The mechanism's name.
pub(super) const MECHANISM: &str = "SCRAM-SHA-256";
const ITERATIONS: NonZeroU32 = NonZeroU32::new(4096).expect("4096 is not zero");
const LENGTH: usize = digest::SHA256_OUTPUT_LEN;

/// What a server keeps of a password.
#[derive(Clone)]
pub(super) struct Verifier {
    salt: [u8; 16],
    stored_key: [u8; LENGTH],
    server_key: [u8; LENGTH],
}

impl Verifier {
    /// Of a password, which must be of ASCII: of others two spellings could mean the same.
    pub(super) fn of(password: &str) -> Result<Verifier, SqlError> {
        let mut salt = [0; 16];
        random(&mut salt)?;
        Ok(Verifier::salted(password, salt))
    }

    /// One that no password fits, the same at each attempt under a name: an unknown user must look like any other.
    pub(super) fn of_nobody(name: &str, secret: &[u8; 32]) -> Result<Verifier, SqlError> {
        let mut password = [0; 32];
        random(&mut password)?;
        let tag = sign(secret, name.as_bytes());
        let mut salt = [0; 16];
        salt.copy_from_slice(&tag[..16]);
        Ok(Verifier::salted(&STANDARD.encode(password), salt))
    }

    fn salted(password: &str, salt: [u8; 16]) -> Verifier {
        let mut salted = [0; LENGTH];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ITERATIONS, &salt, password.as_bytes(), &mut salted);
        let client_key = sign(&salted, b"Client Key");
        Verifier { salt, stored_key: sha256(&client_key), server_key: sign(&salted, b"Server Key") }
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verifier")
    }
}

/// An exchange after the server's first message.
pub(super) struct Challenged {
    verifier: Verifier,
    /// What the client said of channel binding, as it must repeat it.
    header: String,
    nonce: String,
    client_first: String,
    server_first: String,
}

impl Challenged {
    /// Reads the client's first message.
    pub(super) fn begin(verifier: Verifier, message: &[u8]) -> Result<Challenged, SqlError> {
        let text = std::str::from_utf8(message).map_err(|_| malformed())?;
        let mut parts = text.splitn(3, ',');
        let (binding, name, bare) = (parts.next(), parts.next(), parts.next().ok_or_else(malformed)?);
        let (Some(binding @ ("n" | "y")), Some(name)) = (binding, name) else { return Err(malformed()) };
        let theirs = bare.split(',').find_map(|part| part.strip_prefix("r=")).ok_or_else(malformed)?;
        let mut ours = [0; 18];
        random(&mut ours)?;
        let nonce = format!("{theirs}{}", STANDARD.encode(ours));
        let server_first = format!("r={nonce},s={},i={ITERATIONS}", STANDARD.encode(verifier.salt));
        let header = format!("{binding},{name},");
        Ok(Challenged { verifier, header, nonce, client_first: bare.to_owned(), server_first })
    }

    /// The message that goes to the client now.
    pub(super) fn message(&self) -> &str {
        &self.server_first
    }

    /// Reads the client's final message; gives the server's where the password was right.
    pub(super) fn finish(&self, message: &[u8]) -> Result<Option<String>, SqlError> {
        let text = std::str::from_utf8(message).map_err(|_| malformed())?;
        let (bare, proof) = text.rsplit_once(",p=").ok_or_else(malformed)?;
        let proof = STANDARD.decode(proof).map_err(|_| malformed())?;
        let said = |name: &str| bare.split(',').find_map(|part| part.strip_prefix(name));
        let header = said("c=").and_then(|header| STANDARD.decode(header).ok());
        if header.as_deref() != Some(self.header.as_bytes()) || said("r=") != Some(&self.nonce) || proof.len() != LENGTH
        {
            return Err(malformed());
        }
        let exchange = format!("{},{},{bare}", self.client_first, self.server_first);
        let signature = sign(&self.verifier.stored_key, exchange.as_bytes());
        let mut client_key = [0; LENGTH];
        for ((key, proof), signature) in client_key.iter_mut().zip(&proof).zip(signature) {
            *key = proof ^ signature;
        }
        // All of it, so that the time says nothing of where it differs.
        let pairs = sha256(&client_key).into_iter().zip(self.verifier.stored_key);
        let right = pairs.fold(0, |different, (one, other)| different | (one ^ other)) == 0;
        let ours = STANDARD.encode(sign(&self.verifier.server_key, exchange.as_bytes()));
        Ok(right.then(|| format!("v={ours}")))
    }
}

/// Fills a buffer with what nobody can guess.
pub(super) fn random(buffer: &mut [u8]) -> Result<(), SqlError> {
    SystemRandom::new().fill(buffer).map_err(|_| SqlError::fatal("XX000", "the system gives no random numbers"))
}

fn sha256(bytes: &[u8]) -> [u8; LENGTH] {
    let mut out = [0; LENGTH];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

fn sign(key: &[u8], bytes: &[u8]) -> [u8; LENGTH] {
    let mut out = [0; LENGTH];
    out.copy_from_slice(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), bytes).as_ref());
    out
}

fn malformed() -> SqlError {
    SqlError::fatal("08P01", "malformed SCRAM message")
}

#[cfg(test)]
mod tests {
    use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};

    use super::*;

    fn log_in(password: &str, verifier: Verifier) -> Option<()> {
        let mut client = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        let challenged = Challenged::begin(verifier, client.message()).unwrap();
        client.update(challenged.message().as_bytes()).unwrap();
        let last = challenged.finish(client.message()).unwrap()?;
        client.finish(last.as_bytes()).unwrap();
        Some(())
    }

    #[test]
    fn the_right_password_lets_in_and_no_other() {
        let verifier = Verifier::of("sesame").unwrap();
        assert_eq!(log_in("sesame", verifier.clone()), Some(()));
        assert_eq!(log_in("Sesame", verifier.clone()), None);
        assert_eq!(log_in("", verifier), None);
        assert_eq!(log_in("sesame", Verifier::of_nobody("eve", &[7; 32]).unwrap()), None);
    }

    #[test]
    fn nobody_looks_the_same_at_each_attempt() {
        let salt = |name| Verifier::of_nobody(name, &[7; 32]).unwrap().salt;
        assert_eq!(salt("eve"), salt("eve"));
        assert_ne!(salt("eve"), salt("mallory"));
    }

    #[test]
    fn nonsense_is_refused() {
        let verifier = Verifier::of("sesame").unwrap();
        for first in [&b""[..], b"n", b"n,,", b"p=tls-unique,,n=,r=x", b"n,,n=u", b"\xff,,r=x"] {
            assert!(Challenged::begin(verifier.clone(), first).is_err(), "{first:?}");
        }
        let challenged = Challenged::begin(verifier, b"n,,n=,r=abc").unwrap();
        for last in [&b""[..], b"c=biws", b"c=biws,r=abc,p=", b"c=eSws,r=abc,p=AAAA", b"p=\xff"] {
            assert!(challenged.finish(last).is_err(), "{last:?}");
        }
    }
}
