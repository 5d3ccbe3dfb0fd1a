//! LPOS: <https://redis.io/docs/latest/commands/lpos/>.

use super::{Args, Ctx, Error, Reply, parse_i64, read};
use crate::collection::list::List;

/// The options of LPOS.
struct Options {
    /// Which match is the first to be returned; negative: counted from the tail.
    rank: i64,
    /// 0 is all; None: the reply is one index and not an array.
    count: Option<u64>,
    /// Elements looked at.
    steps_max: usize,
}

impl Options {
    fn parse(args: Args) -> Result<Options, Error> {
        let mut options = Options { rank: 1, count: None, steps_max: usize::MAX };
        let mut rest = args.iter();
        while let Some(name) = rest.next() {
            let value = rest.next().ok_or(Error::Syntax)?;
            if name.eq_ignore_ascii_case(b"rank") {
                options.rank = parse_i64(value)?;
                match options.rank {
                    0 => return Err(Error::RankZero),
                    // Its opposite could not be said.
                    i64::MIN => return Err(Error::NotBetween { min: -i64::MAX, max: i64::MAX }),
                    _ => {}
                }
            } else if name.eq_ignore_ascii_case(b"count") {
                options.count = Some(not_negative(value, "COUNT")?);
            } else if name.eq_ignore_ascii_case(b"maxlen") {
                let steps = not_negative(value, "MAXLEN")?;
                options.steps_max = if steps == 0 { usize::MAX } else { steps as usize };
            } else {
                return Err(Error::Syntax);
            }
        }
        Ok(options)
    }
}

fn not_negative(value: &[u8], name: &'static str) -> Result<u64, Error> {
    parse_i64(value).ok().and_then(|n| u64::try_from(n).ok()).ok_or(Error::Negative(name))
}

pub fn lpos(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let options = Options::parse(&args[3..])?;
    let key = ctx.key(args[1]);
    let list = read(ctx, &key)?;
    let matches = list.map_or(Vec::new(), |list| find(list, args[2], &options));
    match (options.count, matches.first()) {
        (Some(_), _) => {
            reply.array(matches.len());
            matches.iter().for_each(|&index| reply.int(index as i64));
        }
        (None, Some(&index)) => reply.int(index as i64),
        (None, None) => reply.null(),
    }
    Ok(())
}

fn find(list: List, wanted: &[u8], options: &Options) -> Vec<usize> {
    let count = match options.count {
        None => 1,
        Some(0) => usize::MAX,
        Some(count) => count as usize,
    };
    let skip = (options.rank.unsigned_abs() - 1) as usize;
    let is_match = |(index, item): (usize, &[u8])| (item == wanted).then_some(index);
    if options.rank > 0 {
        list.iter_from(0).take(options.steps_max).enumerate().filter_map(is_match).skip(skip).take(count).collect()
    } else {
        let last = list.len() - 1;
        let items = list.iter_back_from(last).take(options.steps_max).enumerate();
        items.map(|(back, item)| (last - back, item)).filter_map(is_match).skip(skip).take(count).collect()
    }
}
