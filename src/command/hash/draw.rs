//! HRANDFIELD: fields that are chosen at random.

use super::{Args, Ctx, Error, Reply, read};
use crate::collection::dict::Pair;
use crate::collection::random::Random;
use crate::command::elements::{Draws, draw_repeatedly};

pub fn hrandfield(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let (draws, with_values) = Draws::parse_args(args, b"withvalues")?;
    let mut random = Random::new(ctx.random);
    let bytes_max = ctx.string_bytes_max;
    let key = ctx.key(args[1]);
    let hash = read(ctx, &key)?;
    match draws {
        None => match hash.random(&mut random) {
            Some((field, _)) => reply.bulk(field),
            None => reply.null(),
        },
        Some(Draws::Distinct(count)) => {
            start(reply, count.min(hash.len()), with_values);
            hash.sample(count, &mut random, |pair| reply_pair(reply, pair, with_values));
        }
        Some(Draws::Repeated(_)) if hash.is_empty() => reply.array(0),
        Some(Draws::Repeated(count)) => {
            start(reply, count as usize, with_values);
            let draw = |reply: &mut Reply| {
                if let Some(pair) = hash.random(&mut random) {
                    reply_pair(reply, pair, with_values);
                }
            };
            draw_repeatedly(reply, count, bytes_max, draw)?;
        }
    }
    Ok(())
}

/// Fields with values are pairs in RESP3; in RESP2 they follow each other.
fn start(reply: &mut Reply, fields: usize, with_values: bool) {
    reply.array(if with_values && !reply.is_resp3() { 2 * fields } else { fields });
}

fn reply_pair(reply: &mut Reply, (field, text): Pair, with_values: bool) {
    if with_values && reply.is_resp3() {
        reply.array(2);
    }
    reply.bulk(field);
    if with_values {
        reply.bulk(text);
    }
}
