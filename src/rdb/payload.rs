//! What DUMP answers and RESTORE takes: one value, the version of the format, and a checksum.
//!
//! Used by the core that owns the key.

use super::source::Source;
use super::value::{self, Decoder};
use super::whole::Whole;
use super::write::{Encoder, Saved, code_of, version_of};
use super::{CRC, Dialect, Error};
use crate::collection::{Thresholds, Value};
use crate::shard::{Kind, Now};

const CHECKSUM_BYTES: usize = 8;
const FOOTER_BYTES: usize = 2 + CHECKSUM_BYTES;

/// The value of a payload.
#[derive(Debug)]
pub enum Restored {
    String(Vec<u8>),
    /// `fields_over` fields of a hash were left out because their deadlines have come. Without them it may be empty; it is
    /// not otherwise.
    Collection {
        kind: Kind,
        value: Value,
        fields_over: u64,
    },
}

/// The payload for a value. Its version is [`super::VERSION`], unless fields of a hash have deadlines.
pub fn dump(value: &Saved, now: Now) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new());
    let written = encoder
        .byte(code_of(value))
        .and_then(|()| encoder.value(value, now))
        .and_then(|()| encoder.bytes(&version_of(value).to_le_bytes()));
    debug_assert!(written.is_ok(), "a vector takes everything");
    let checksum = encoder.checksum();
    let mut payload = encoder.into_output();
    payload.extend_from_slice(&checksum.to_le_bytes());
    payload
}

/// Why a payload was refused.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// Of another version, cut off, or changed on its way.
    #[error("the version or the checksum is wrong")]
    Footer,
    #[error(transparent)]
    Value(#[from] Error),
}

/// The value in a payload, as it is `now`. Strings in it must not be longer than `string_bytes_max`.
pub fn restore(
    payload: &[u8],
    thresholds: &Thresholds,
    now: Now,
    string_bytes_max: usize,
) -> Result<Restored, PayloadError> {
    let (body, dialect) = checked_body(payload).ok_or(PayloadError::Footer)?;
    let mut source = Source::new(body, string_bytes_max as u64);
    let code = source.byte()?;
    let mut whole = Whole::new(thresholds, now);
    if value::kind(code, dialect).is_none() {
        return Err(Error::UnknownCode { offset: 0, code }.into());
    }
    let elements = Decoder::default().decode(&mut source, code, dialect, &mut whole)?;
    if elements == 0 || source.offset() != body.len() as u64 {
        return Err(source.damaged("a payload has no elements, or something behind its value").into());
    }
    Ok(match whole.kind {
        Kind::String => Restored::String(whole.string),
        kind => Restored::Collection { kind, value: whole.collection, fields_over: whole.fields_over },
    })
}

/// What is before version and checksum, if these are right.
fn checked_body(payload: &[u8]) -> Option<(&[u8], Dialect)> {
    let (body, footer) = payload.split_at_checked(payload.len().checked_sub(FOOTER_BYTES)?)?;
    let (version, checksum) = footer.split_first_chunk::<2>()?;
    let dialect = Dialect::of_version(u32::from(u16::from_le_bytes(*version)))?;
    let computed = CRC.checksum(&payload[..payload.len() - CHECKSUM_BYTES]);
    (computed.to_le_bytes() == checksum).then_some((body, dialect))
}
