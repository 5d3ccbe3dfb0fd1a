//! Keyspace notifications: what happened to which key, for clients that want to hear of it.
//!
//! An *event* is one line of a key's story as Redis tells it: `set`, `expire`, `rename_from`, `expired`. It differs from
//! an [effect](super::effect), which says how to repeat a write: SET with EX is one effect and two events, a GET that
//! finds nothing is an event and no effect, FLUSHALL is an effect and no event.
//!
//! Every event belongs to one class, and `notify-keyspace-events` says which classes are wanted ([`Classes`]). Commands
//! record an event where they have done what it tells; the shard itself records what no command asks for: `new`,
//! `keymiss`, `expired`, `evicted`. Names and their order are those of Redis 7.0.
//!
//! What does it cost if nobody listens? Recording tests one mask, which is empty unless the directive wants events *and*
//! a consumer takes them. The consumer turns an event into a message to `__keyspace@<db>__:<key>` (with
//! [`Classes::KEYSPACE`]), then one to `__keyevent@<db>__:<name>` (with [`Classes::KEYEVENT`]).
//!
//! The queue is bounded: what does not fit is dropped and counted, the newest first, so that what is left is the story
//! without its end. As in Redis, an event is told at most once and never held back: whoever must not miss a change has to
//! look at the keyspace.
//!
//! Owned by one core.

use std::collections::VecDeque;
use std::fmt;

/// Events that wait for the consumer at the most.
pub const EVENTS_MAX: usize = 1 << 16;
/// No event is added to keys of so many bytes in all.
pub const EVENT_KEY_BYTES_MAX: usize = 64 << 20;

/// Classes of events, and the two kinds of channels for them, as a bit set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Classes(u16);

impl Classes {
    pub const NONE: Classes = Classes(0);
    /// Not a class: events are published to the channel of their key.
    pub const KEYSPACE: Classes = Classes(1);
    /// Not a class: events are published to the channel of their name.
    pub const KEYEVENT: Classes = Classes(1 << 1);
    /// Commands that work on keys of any type.
    pub const GENERIC: Classes = Classes(1 << 2);
    pub const STRING: Classes = Classes(1 << 3);
    pub const LIST: Classes = Classes(1 << 4);
    pub const SET: Classes = Classes(1 << 5);
    pub const HASH: Classes = Classes(1 << 6);
    pub const SORTED_SET: Classes = Classes(1 << 7);
    pub const EXPIRED: Classes = Classes(1 << 8);
    pub const EVICTED: Classes = Classes(1 << 9);
    pub const STREAM: Classes = Classes(1 << 10);
    /// A command that reads found no such key.
    pub const KEY_MISS: Classes = Classes(1 << 11);
    /// A command that writes found no such key and made it.
    pub const NEW: Classes = Classes(1 << 12);
    pub const MODULE: Classes = Classes(1 << 13);

    /// What the letter A means: every class but KEY_MISS and NEW.
    const ALL: Classes = Classes(0b10_0111_1111_1100);
    const CHANNELS: Classes = Classes(Classes::KEYSPACE.0 | Classes::KEYEVENT.0);

    /// The letters of the directive. For once in the order in which Redis prints them; A stands for those before `n`.
    const LETTERS: [(char, Classes); 14] = [
        ('g', Classes::GENERIC),
        ('$', Classes::STRING),
        ('l', Classes::LIST),
        ('s', Classes::SET),
        ('h', Classes::HASH),
        ('z', Classes::SORTED_SET),
        ('x', Classes::EXPIRED),
        ('e', Classes::EVICTED),
        ('t', Classes::STREAM),
        ('d', Classes::MODULE),
        ('n', Classes::NEW),
        ('K', Classes::KEYSPACE),
        ('E', Classes::KEYEVENT),
        ('m', Classes::KEY_MISS),
    ];

    /// Letters in any order; None if one of them means nothing.
    pub fn parse(text: &str) -> Option<Classes> {
        text.chars().try_fold(Classes::NONE, |all, letter| {
            let class = match letter {
                'A' => Classes::ALL,
                letter => Classes::LETTERS.iter().find(|(known, _)| *known == letter)?.1,
            };
            Some(Classes(all.0 | class.0))
        })
    }

    #[inline]
    pub const fn has(self, other: Classes) -> bool {
        self.0 & other.0 != 0
    }
}

/// The letters, as Redis prints them. That includes an oddity: next to A it does not print `n`.
impl fmt::Display for Classes {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let all = self.0 & Classes::ALL.0 == Classes::ALL.0;
        if all {
            f.write_str("A")?;
        }
        let silent = Classes(if all { Classes::ALL.0 | Classes::NEW.0 } else { 0 });
        let letters = Classes::LETTERS.iter().filter(|(_, class)| self.has(*class) && !silent.has(*class));
        letters.map(|(letter, _)| *letter).try_for_each(|letter| fmt::Write::write_char(f, letter))
    }
}

/// Something that happened to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub class: Classes,
    pub name: &'static str,
    pub db: u8,
    pub key: Vec<u8>,
}

/// The events of one shard since they were last drained; see the module.
///
/// Invariant: `wanted` is `mask` if there is a consumer and the mask names a channel, otherwise empty; `key_bytes` is the
/// sum of the queue's keys.
#[derive(Debug, Default)]
pub struct Events {
    enabled: bool,
    /// What the configuration wants.
    mask: Classes,
    /// What is recorded.
    wanted: Classes,
    queue: VecDeque<Event>,
    key_bytes: usize,
    dropped: u64,
}

impl Events {
    /// Switches recording; whoever publishes the events is the consumer.
    pub fn enable(&mut self, enabled: bool) {
        self.enabled = enabled;
        self.set_mask(self.mask);
    }

    #[inline]
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// Sets what `notify-keyspace-events` says.
    pub fn set_mask(&mut self, mask: Classes) {
        self.mask = mask;
        self.wanted = if self.enabled && mask.has(Classes::CHANNELS) { mask } else { Classes::NONE };
    }

    /// Records that `name`, an event of `class`, happened to `key`.
    #[inline]
    pub fn push(&mut self, class: Classes, name: &'static str, db: usize, key: &[u8]) {
        if self.wanted.has(class) {
            self.record(class, name, db, key);
        }
    }

    #[cold]
    fn record(&mut self, class: Classes, name: &'static str, db: usize, key: &[u8]) {
        if self.queue.len() >= EVENTS_MAX || self.key_bytes >= EVENT_KEY_BYTES_MAX {
            self.dropped += 1;
            return;
        }
        self.key_bytes += key.len();
        self.queue.push_back(Event { class, name, db: db as u8, key: key.to_vec() });
    }

    /// Whether anything is recorded at all.
    #[inline]
    pub fn recording(&self) -> bool {
        self.wanted != Classes::NONE
    }

    /// What the configuration wants.
    pub fn mask(&self) -> Classes {
        self.mask
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Events that found the queue full.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    pub fn drain(&mut self) -> std::collections::vec_deque::Drain<'_, Event> {
        self.key_bytes = 0;
        self.queue.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_read_in_any_order_and_printed_in_one() {
        for (text, printed) in [
            ("", ""),
            ("KEA", "AKE"),
            ("AAAA", "A"),
            ("g$lshzxetd", "A"),
            ("dtexzhsl$g", "A"),
            ("g$lshzxet", "g$lshzxet"),
            ("Kx", "xK"),
            ("mn", "nm"),
            ("mEKAn", "AKEm"),
            ("mKE", "KEm"),
        ] {
            assert_eq!(Classes::parse(text).map(|classes| classes.to_string()).as_deref(), Some(printed), "{text:?}");
        }
        for bad in ["q", "AQ", "K E", "a", "\u{e9}"] {
            assert_eq!(Classes::parse(bad), None, "{bad:?}");
        }
        // What is not printed is wanted all the same.
        assert!(Classes::parse("An").unwrap().has(Classes::NEW));
    }

    #[test]
    fn nothing_is_recorded_unless_it_is_wanted_and_taken() {
        for (consumer, mask, expected) in
            [(true, "KA", 1), (true, "E$", 1), (true, "A", 0), (true, "Kg", 0), (true, "", 0), (false, "KEA", 0)]
        {
            // Whichever is said first.
            for mask_first in [true, false] {
                let mut events = Events::default();
                let classes = Classes::parse(mask).unwrap();
                if mask_first {
                    events.set_mask(classes);
                }
                events.enable(consumer);
                if !mask_first {
                    events.set_mask(classes);
                }
                events.push(Classes::STRING, "set", 3, b"key");
                assert_eq!(events.drain().len(), expected, "{consumer} {mask:?}");
            }
        }
    }

    #[test]
    fn the_queue_is_bounded_and_says_what_it_lost() {
        let mut events = Events::default();
        events.enable(true);
        events.set_mask(Classes::parse("KA").unwrap());
        for i in 0..EVENTS_MAX + 10 {
            events.push(Classes::GENERIC, "del", 0, i.to_string().as_bytes());
        }
        assert_eq!(events.dropped(), 10);
        assert_eq!(events.drain().next().map(|event| event.key), Some(b"0".to_vec()));
        let key = vec![b'k'; EVENT_KEY_BYTES_MAX / 2];
        (0..5).for_each(|_| events.push(Classes::GENERIC, "del", 0, &key));
        assert_eq!((events.dropped(), events.drain().len()), (13, 2));
    }
}
