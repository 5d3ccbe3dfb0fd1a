//! The floor: the same pump answering fixed bytes without reading the requests.
//!
//! It shows what the network path alone costs, so that a benchmark can tell how much parsing, executing and replying
//! add. Requests are counted by their asterisks, and told apart (GET or SET) by one byte: this serves benchmarks only.

use super::pump::Pump;

/// Reply to a GET: 64 bytes.
const VALUE: &[u8] = b"$64\r\nxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n";
const OK: &[u8] = b"+OK\r\n";

/// Where the command's first letter stands in `*2\r\n$3\r\nGET`.
const LETTER_AT: usize = 8;

impl Pump {
    /// Answers as many requests as `bytes` holds.
    pub(super) fn answer_fixed(&mut self, index: u32, bytes: &[u8]) {
        let requests = memchr::memchr_iter(b'*', bytes).count();
        let reply = if bytes.get(LETTER_AT).is_some_and(|b| b.eq_ignore_ascii_case(&b'g')) { VALUE } else { OK };
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        if connection.out.capacity() == 0 {
            connection.out = self.pool.pop().unwrap_or_default();
        }
        for _ in 0..requests {
            connection.out.push(reply);
        }
        self.mark_dirty(index);
    }
}
