//! Copies and roles take turns.
//!
//! While copies move, all threads have something to do, and requests wait longer for a role that moves: it takes one step after the
//! other, on several of these threads. So roles move when no copy does, as far as there are such times: after a while no copy is begun
//! any more, and when those under way have ended, roles are asked for. A copy that is long, or goes on for ever, is not
//! waited for that long.
//!
//! Pure.

use crate::shard::SteadyMs;

/// For so long copies are begun though roles could move, unless none is under way.
pub const COPIES_TURN_MS: i64 = 10_000;
/// For so long roles wait for the end of copies.
pub const COPIES_END_MS: i64 = 5_000;
/// For so long no copies are begun, as roles move or wait.
pub const ROLES_TURN_MS: i64 = COPIES_END_MS + 2_000;

/// Whose turn it is, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Copies { since_ms: SteadyMs },
    Roles { since_ms: SteadyMs },
}

impl Turn {
    /// The next one, if it is time for that. `roles`: some could move, or do. `copying`: copies are under way.
    pub fn next(self, now_ms: SteadyMs, roles: bool, copying: bool) -> Turn {
        let is_over = |since_ms, length_ms| now_ms.saturating_sub(since_ms) >= length_ms;
        match self {
            Turn::Copies { since_ms } if roles && (!copying || is_over(since_ms, COPIES_TURN_MS)) => {
                Turn::Roles { since_ms: now_ms }
            }
            Turn::Roles { since_ms } if !roles || is_over(since_ms, ROLES_TURN_MS) => Turn::Copies { since_ms: now_ms },
            same => same,
        }
    }

    pub fn copies_may_begin(self) -> bool {
        matches!(self, Turn::Copies { .. })
    }

    pub fn roles_may_move(self, now_ms: SteadyMs, copying: bool) -> bool {
        match self {
            Turn::Copies { .. } => false,
            Turn::Roles { since_ms } => !copying || now_ms.saturating_sub(since_ms) >= COPIES_END_MS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_move_at_once_when_no_copy_does() {
        let turn = Turn::Copies { since_ms: 0 }.next(1, true, false);
        assert!(turn.roles_may_move(1, false) && !turn.copies_may_begin());
        assert!(turn.next(2, false, false).copies_may_begin());
    }

    #[test]
    fn copies_end_before_roles_move() {
        let turn = Turn::Copies { since_ms: 0 };
        assert_eq!(turn.next(COPIES_TURN_MS - 1, true, true), turn);
        let turn = turn.next(COPIES_TURN_MS, true, true);
        assert!(!turn.copies_may_begin());
        assert!(!turn.roles_may_move(COPIES_TURN_MS + COPIES_END_MS - 1, true));
        assert!(turn.roles_may_move(COPIES_TURN_MS + 1, false));
    }

    #[test]
    fn neither_waits_for_ever() {
        let turn = Turn::Roles { since_ms: 0 };
        assert!(turn.roles_may_move(COPIES_END_MS, true));
        assert_eq!(turn.next(ROLES_TURN_MS - 1, true, true), turn);
        let turn = turn.next(ROLES_TURN_MS, true, true);
        assert!(turn.copies_may_begin());
        assert!(turn.next(ROLES_TURN_MS + COPIES_TURN_MS, true, true).roles_may_move(i64::MAX, true));
    }
}
