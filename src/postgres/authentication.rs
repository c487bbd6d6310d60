//! Authentication of the replication connection: trust, cleartext, MD5 and SCRAM-SHA-256, the last bound
//! to the TLS connection where there is one.

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding as ScramBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::backend::{AUTHENTICATION_TAG, ERROR_RESPONSE_TAG, NOTICE_RESPONSE_TAG};
use postgres_protocol::message::frontend;

use crate::failure::{Failure, Result};

use super::diagnosis::{ServerReport, password_missing};
use super::frame::{Fields, Malformed};
use super::source::{ChannelBinding, Secret};
use super::transport::Setback;
use super::wire::Wire;

const OK: i32 = 0;
const CLEARTEXT: i32 = 3;
const MD5: i32 = 5;
const SASL: i32 = 10;
const SASL_CONTINUE: i32 = 11;
const SASL_FINAL: i32 = 12;

/// Who wants to be let in.
pub(super) struct Applicant<'a> {
    pub(super) user: &'a str,
    pub(super) password: Option<Secret>,
    pub(super) channel_binding: ChannelBinding,
}

impl Applicant<'_> {
    fn password(&self) -> Result<&[u8]> {
        self.password.as_ref().map(Secret::expose).ok_or_else(password_missing)
    }

    /// Only SCRAM can be bound to the connection.
    fn allow_unbound(&self) -> Result<()> {
        if self.channel_binding != ChannelBinding::Require {
            return Ok(());
        }
        Err(Failure::failed("channel_binding=require, and the server authenticates without it")
            .remedy("use TLS and a scram-sha-256 line in pg_hba.conf, or channel_binding=prefer"))
    }
}

/// One authentication request of the server.
struct Request {
    kind: i32,
    data: Vec<u8>,
}

/// Answers the server's requests until it says that the applicant is in.
///
/// # Errors
/// What the server reports, or a request that is not supported or not acceptable.
pub(super) async fn authenticate(wire: &mut Wire, applicant: &Applicant<'_>) -> Result<(), Setback> {
    let request = next_request(wire).await?;
    match request.kind {
        OK => return Ok(applicant.allow_unbound()?),
        CLEARTEXT => {
            applicant.allow_unbound()?;
            send_password(wire, applicant.password()?).await?;
        }
        MD5 => {
            applicant.allow_unbound()?;
            let salt = request.data.first_chunk::<4>().ok_or(Failure::from(Malformed))?;
            let hash = md5_hash(applicant.user.as_bytes(), applicant.password()?, *salt);
            send_password(wire, hash.as_bytes()).await?;
        }
        SASL => scram(wire, applicant, &request.data).await?,
        other => return Err(unsupported(&format!("method {other}")).into()),
    }
    expect(wire, OK).await.map(|_| ())
}

fn unsupported(what: &str) -> Failure {
    Failure::failed(format!("the server asks for an authentication that is not supported: {what}"))
        .remedy("give this user a scram-sha-256, md5, password, cert, peer or trust line in pg_hba.conf")
}

async fn next_request(wire: &mut Wire) -> Result<Request, Setback> {
    loop {
        let frame = wire.receive().await?;
        match frame.tag {
            AUTHENTICATION_TAG => {
                let mut fields = Fields(&frame.body);
                let kind = fields.i32().map_err(Failure::from)?;
                return Ok(Request { kind, data: fields.0.to_vec() });
            }
            NOTICE_RESPONSE_TAG => {}
            ERROR_RESPONSE_TAG => return Err(ServerReport::read(&frame.body).map_err(Failure::from)?.into()),
            _ => return Err(Failure::from(Malformed).into()),
        }
    }
}

async fn expect(wire: &mut Wire, kind: i32) -> Result<Vec<u8>, Setback> {
    let request = next_request(wire).await?;
    if request.kind == kind { Ok(request.data) } else { Err(Failure::from(Malformed).into()) }
}

async fn send_password(wire: &mut Wire, password: &[u8]) -> Result<()> {
    wire.enqueue(|out| frontend::password_message(password, out))?;
    wire.flush().await
}

async fn scram(wire: &mut Wire, applicant: &Applicant<'_>, mechanisms: &[u8]) -> Result<(), Setback> {
    let offer = Offer::read(mechanisms).map_err(Failure::from)?;
    let binding = wire.end_point_binding().filter(|_| applicant.channel_binding != ChannelBinding::Disable);
    let (mechanism, binding) = offer.choose(binding)?;
    if mechanism != SCRAM_SHA_256_PLUS {
        applicant.allow_unbound()?;
    }
    let mut scram = ScramSha256::new(applicant.password()?, binding);
    wire.enqueue(|out| frontend::sasl_initial_response(mechanism, scram.message(), out))?;
    wire.flush().await?;
    let challenge = expect(wire, SASL_CONTINUE).await?;
    scram.update(&challenge).map_err(untrustworthy)?;
    wire.enqueue(|out| frontend::sasl_response(scram.message(), out))?;
    wire.flush().await?;
    let proof = expect(wire, SASL_FINAL).await?;
    Ok(scram.finish(&proof).map_err(untrustworthy)?)
}

fn untrustworthy(error: std::io::Error) -> Failure {
    Failure::failed(format!("the server does not prove that it knows the password: {error}"))
        .remedy("check that the address is your server's: somebody may stand in for it")
}

/// The SASL mechanisms that the server offers.
#[derive(Default)]
struct Offer {
    plain: bool,
    bound: bool,
}

impl Offer {
    fn read(list: &[u8]) -> Result<Offer, Malformed> {
        let mut fields = Fields(list);
        let mut offer = Offer::default();
        loop {
            match fields.text()? {
                "" => return Ok(offer),
                SCRAM_SHA_256 => offer.plain = true,
                SCRAM_SHA_256_PLUS => offer.bound = true,
                _ => {}
            }
        }
    }

    /// The strongest mechanism. Saying "unrequested" where binding was possible but not offered lets the server
    /// notice somebody in between who struck it from the list.
    fn choose(&self, binding: Option<Vec<u8>>) -> Result<(&'static str, ScramBinding)> {
        match binding {
            Some(binding) if self.bound => Ok((SCRAM_SHA_256_PLUS, ScramBinding::tls_server_end_point(binding))),
            Some(_) if self.plain => Ok((SCRAM_SHA_256, ScramBinding::unrequested())),
            None if self.plain => Ok((SCRAM_SHA_256, ScramBinding::unsupported())),
            _ => Err(unsupported("no SCRAM-SHA-256")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(list: &[u8], bound: bool) -> Option<&'static str> {
        let offer = Offer::read(list).unwrap();
        offer.choose(bound.then(|| vec![1])).ok().map(|(mechanism, _)| mechanism)
    }

    #[test]
    fn the_strongest_mechanism_that_both_sides_have_is_taken() {
        let both = b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";
        assert_eq!(chosen(both, true), Some(SCRAM_SHA_256_PLUS));
        assert_eq!(chosen(both, false), Some(SCRAM_SHA_256));
        assert_eq!(chosen(b"SCRAM-SHA-256\0\0", true), Some(SCRAM_SHA_256));
        assert_eq!(chosen(b"OAUTHBEARER\0\0", true), None);
        assert!(Offer::read(b"SCRAM-SHA-256\0").is_err());
    }
}
