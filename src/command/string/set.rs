//! SET and the commands that share its options: SETNX, SETEX, PSETEX, GETSET, GETEX.
//!
//! A duration (EX, PX) is measured by the steady clock and a moment (EXAT, PXAT) by the wall clock. Whatever a client
//! asked for, the effect says `PXAT`: a replay at another time ends in the same keyspace.

use super::{read, reply_string};
use crate::command::generic::expire::{expire_at, persist_key};
use crate::command::number::parse_i64;
use crate::command::{Args, Ctx};
use crate::resp::{Error, Reply};
use crate::route::Key;
use crate::shard::{Classes, Clock, Deadline, Expiry, Now};

/// How an expiry is given.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Ex,
    Px,
    ExAt,
    PxAt,
}

impl Form {
    #[inline]
    fn of_option(option: &[u8]) -> Option<Form> {
        match option {
            o if o.eq_ignore_ascii_case(b"ex") => Some(Form::Ex),
            o if o.eq_ignore_ascii_case(b"px") => Some(Form::Px),
            o if o.eq_ignore_ascii_case(b"exat") => Some(Form::ExAt),
            o if o.eq_ignore_ascii_case(b"pxat") => Some(Form::PxAt),
            _ => None,
        }
    }

    /// The moment that `argument` means for `command`. Only positive numbers are good.
    fn deadline(self, argument: &[u8], now: Now, command: &'static str) -> Result<Deadline, Error> {
        let number = parse_i64(argument)?;
        let factor = if matches!(self, Form::Ex | Form::ExAt) { 1000 } else { 1 };
        let clock = if matches!(self, Form::Ex | Form::Px) { Clock::Steady } else { Clock::Wall };
        Some(number)
            .filter(|&n| n > 0)
            .and_then(|n| n.checked_mul(factor))
            .and_then(|ms| now.deadline(clock, ms))
            .ok_or(Error::InvalidExpire(command))
    }
}

/// What the options say about the expiry.
#[derive(Clone, Copy, Default)]
enum Ttl<'a> {
    #[default]
    Unsaid,
    Keep,
    Persist,
    Given(Form, &'a [u8]),
}

impl<'a> Ttl<'a> {
    /// The same option may be repeated, and the last one counts; different ones contradict each other.
    fn say(&mut self, new: Ttl<'a>) -> Result<(), Error> {
        let fits = match (*self, new) {
            (Ttl::Unsaid, _) | (Ttl::Keep, Ttl::Keep) | (Ttl::Persist, Ttl::Persist) => true,
            (Ttl::Given(before, _), Ttl::Given(form, _)) => before == form,
            _ => false,
        };
        *self = new;
        if fits { Ok(()) } else { Err(Error::Syntax) }
    }
}

/// NX or XX.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Condition {
    Absent,
    Present,
}

/// The options of SET, in any order.
#[derive(Default)]
struct Options<'a> {
    condition: Option<Condition>,
    get: bool,
    ttl: Ttl<'a>,
}

impl<'a> Options<'a> {
    fn parse(args: Args<'a>) -> Result<Self, Error> {
        let mut options = Options::default();
        let mut rest = args.iter();
        while let Some(option) = rest.next() {
            if let Some(form) = Form::of_option(option) {
                options.ttl.say(Ttl::Given(form, rest.next().ok_or(Error::Syntax)?))?;
            } else if option.eq_ignore_ascii_case(b"nx") {
                options.require(Condition::Absent)?;
            } else if option.eq_ignore_ascii_case(b"xx") {
                options.require(Condition::Present)?;
            } else if option.eq_ignore_ascii_case(b"get") {
                options.get = true;
            } else if option.eq_ignore_ascii_case(b"keepttl") {
                options.ttl.say(Ttl::Keep)?;
            } else {
                return Err(Error::Syntax);
            }
        }
        Ok(options)
    }

    fn require(&mut self, condition: Condition) -> Result<(), Error> {
        if self.condition.is_some_and(|before| before != condition) {
            return Err(Error::Syntax);
        }
        self.condition = Some(condition);
        Ok(())
    }
}

pub fn set(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let key = ctx.key(args[1]);
    if args.len() == 3 {
        ctx.set_arg(&key, args, 2, Expiry::Never);
        ctx.event(Classes::STRING, "set", &key);
        reply.ok();
        return Ok(());
    }
    let options = Options::parse(&args[3..])?;
    let expiry = match options.ttl {
        Ttl::Keep => Expiry::Keep,
        Ttl::Given(form, argument) => Expiry::At(form.deadline(argument, ctx.now(), "set")?),
        Ttl::Unsaid | Ttl::Persist => Expiry::Never,
    };
    if options.get {
        reply_string(reply, read(ctx, &key)?);
    }
    if let Some(condition) = options.condition
        && ctx.peek(&key).is_some() != (condition == Condition::Present)
    {
        if !options.get {
            reply.null();
        }
        return Ok(());
    }
    store(ctx, &key, args, 2, expiry);
    if !options.get {
        reply.ok();
    }
    Ok(())
}

/// Writes argument `index`; the effect is a SET without conditions and with an absolute expiry.
fn store(ctx: &mut Ctx, key: &Key, args: Args, index: usize, expiry: Expiry) {
    ctx.set_arg(key, args, index, expiry);
    ctx.event(Classes::STRING, "set", key);
    let value = args[index];
    match expiry {
        Expiry::Never => ctx.effect_is(&[b"SET", key.bytes, value]),
        Expiry::Keep => ctx.effect_is(&[b"SET", key.bytes, value, b"KEEPTTL"]),
        Expiry::At(deadline) => {
            ctx.event(Classes::GENERIC, "expire", key);
            let mut digits = itoa::Buffer::new();
            ctx.effect_is(&[
                b"SET",
                key.bytes,
                value,
                b"PXAT",
                digits.format(ctx.now().wall_of(deadline).max(1)).as_bytes(),
            ]);
        }
    }
}

pub fn setnx(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let key = ctx.key(args[1]);
    let absent = ctx.peek(&key).is_none();
    if absent {
        store(ctx, &key, args, 2, Expiry::Never);
    }
    reply.int(absent as i64);
    Ok(())
}

pub fn setex(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    set_with_ttl(ctx, args, reply, Form::Ex, "setex")
}

pub fn psetex(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    set_with_ttl(ctx, args, reply, Form::Px, "psetex")
}

fn set_with_ttl(ctx: &mut Ctx, args: Args, reply: &mut Reply, form: Form, command: &'static str) -> Result<(), Error> {
    let key = ctx.key(args[1]);
    let deadline = form.deadline(args[2], ctx.now(), command)?;
    store(ctx, &key, args, 3, Expiry::At(deadline));
    reply.ok();
    Ok(())
}

pub fn getset(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let key = ctx.key(args[1]);
    reply_string(reply, read(ctx, &key)?);
    store(ctx, &key, args, 2, Expiry::Never);
    Ok(())
}

pub fn getex(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let mut ttl = Ttl::Unsaid;
    let mut rest = args[2..].iter();
    while let Some(option) = rest.next() {
        if let Some(form) = Form::of_option(option) {
            ttl.say(Ttl::Given(form, rest.next().ok_or(Error::Syntax)?))?;
        } else if option.eq_ignore_ascii_case(b"persist") {
            ttl.say(Ttl::Persist)?;
        } else {
            return Err(Error::Syntax);
        }
    }
    let key = ctx.key(args[1]);
    let now = ctx.now();
    let value = read(ctx, &key)?;
    if value.is_none() {
        reply.null();
        return Ok(());
    }
    let deadline = match ttl {
        Ttl::Given(form, argument) => Some(form.deadline(argument, now, "getex")?),
        _ => None,
    };
    reply_string(reply, value);
    match (deadline, ttl) {
        (Some(deadline), _) => expire_at(ctx, &key, deadline),
        (None, Ttl::Persist) => {
            persist_key(ctx, &key);
        }
        _ => {}
    }
    Ok(())
}
