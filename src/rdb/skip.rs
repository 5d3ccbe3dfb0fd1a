//! Going over what cannot be kept: streams, values and data of modules.
//!
//! ```text
//! stream       n | (id, 16 bytes as a string | string with a listpack) ... | length | last id
//!              from version 2: first id | greatest deleted id | entries ever added
//!              groups | (name | last id | from version 2: entries read | pending | consumers) ...
//! pending      n | (id 16 bytes | moment i64 | deliveries) ...
//! consumer     name | seen i64 | from version 3: active i64 | n | id 16 bytes ...
//! id           two lengths
//! module       module's id | (1 or 2, length | 3, f32 | 4, f64 | 5, string) ... | 0
//! ```

use std::io::BufRead;

use super::source::Source;
use super::{Error, code};

const STREAM_ID_BYTES: u64 = 16;
const MOMENT_BYTES: u64 = 8;

/// What a value is that cannot be kept; None if it is none of these.
pub(super) fn name(code: u8) -> Option<&'static str> {
    match code {
        code::STREAM_LISTPACKS | code::STREAM_LISTPACKS_2 | code::STREAM_LISTPACKS_3 => Some("a stream"),
        code::MODULE_2 => Some("a value of a module"),
        code::MODULE_PRE_GA => Some("a value of a module of Redis before 4.0"),
        _ => None,
    }
}

/// Goes over a value; false if only its module knows where it ends.
pub(super) fn skip<R: BufRead>(source: &mut Source<R>, code: u8) -> Result<bool, Error> {
    match code {
        code::STREAM_LISTPACKS => stream(source, 1)?,
        code::STREAM_LISTPACKS_2 => stream(source, 2)?,
        code::STREAM_LISTPACKS_3 => stream(source, 3)?,
        code::MODULE_2 => {
            source.length()?;
            module_values(source)?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn lengths<R: BufRead>(source: &mut Source<R>, count: usize) -> Result<(), Error> {
    for _ in 0..count {
        source.length()?;
    }
    Ok(())
}

fn stream<R: BufRead>(source: &mut Source<R>, version: u8) -> Result<(), Error> {
    for _ in 0..source.length()? {
        source.skip_string()?;
        source.skip_string()?;
    }
    lengths(source, if version >= 2 { 8 } else { 3 })?;
    for _ in 0..source.length()? {
        source.skip_string()?;
        lengths(source, if version >= 2 { 3 } else { 2 })?;
        for _ in 0..source.length()? {
            source.skip(STREAM_ID_BYTES + MOMENT_BYTES)?;
            source.length()?;
        }
        for _ in 0..source.length()? {
            source.skip_string()?;
            source.skip(if version >= 3 { 2 * MOMENT_BYTES } else { MOMENT_BYTES })?;
            for _ in 0..source.length()? {
                source.skip(STREAM_ID_BYTES)?;
            }
        }
    }
    Ok(())
}

/// Data of a module outside of keys.
pub(super) fn module_aux<R: BufRead>(source: &mut Source<R>) -> Result<(), Error> {
    // The module, and twice the moment for which it is meant: as a value, which has an opcode, too.
    lengths(source, 3)?;
    module_values(source)
}

fn module_values<R: BufRead>(source: &mut Source<R>) -> Result<(), Error> {
    loop {
        match source.length()? {
            0 => return Ok(()),
            1 | 2 => lengths(source, 1)?,
            3 => source.skip(4)?,
            4 => source.skip(8)?,
            5 => source.skip_string()?,
            _ => return Err(source.damaged("data of a module has no known form")),
        }
    }
}
