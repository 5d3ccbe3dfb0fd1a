//! A place between two items of a sorted set, told by a score, a member or both. A range is what lies between two cuts.
//!
//! Items are in the order of their scores, those of equal scores (0 and -0 are equal) in that of their members' bytes.

/// A place between two items.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cut<'a> {
    /// Before all items.
    Start,
    /// Behind all items.
    End,
    /// Before the items with this score or a greater one; with `equal` behind those with this score.
    Score { score: f64, equal: bool },
    /// Before the item, or where it would be; with `equal` behind it.
    Item { score: f64, member: &'a [u8], equal: bool },
    /// Before the members from this one on, or with `equal` behind it, of items that all have the same score. If they do
    /// not, it is somewhere.
    Member { member: &'a [u8], equal: bool },
}

impl<'a> Cut<'a> {
    /// Whether the cut is behind an item.
    #[inline]
    pub fn is_after<'m>(&self, score: f64, member: impl FnOnce() -> &'m [u8]) -> bool {
        match *self {
            Cut::Start => false,
            Cut::End => true,
            Cut::Score { score: at, equal } => score < at || (equal && score == at),
            Cut::Item { score: at, member: name, equal } => {
                score < at || (score == at && is_below(member(), name, equal))
            }
            Cut::Member { member: name, equal } => is_below(member(), name, equal),
        }
    }

    /// What is known from the scores alone: the cut is not before the first index nor behind the second.
    #[inline]
    pub fn by_scores(&self, scores: &[f64]) -> (usize, usize) {
        match *self {
            Cut::Start => (0, 0),
            Cut::End => (scores.len(), scores.len()),
            Cut::Score { .. } => {
                let at = scores.partition_point(|&score| self.is_after(score, || &[]));
                (at, at)
            }
            Cut::Item { score: at, .. } => {
                let low = scores.partition_point(|&score| score < at);
                (low, low + scores[low..].partition_point(|&score| score == at))
            }
            Cut::Member { .. } => (0, scores.len()),
        }
    }
}

#[inline]
fn is_below(member: &[u8], name: &[u8], equal: bool) -> bool {
    if equal { member <= name } else { member < name }
}
