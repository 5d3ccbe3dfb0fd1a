//! A sorted set that is not compact: a tree of the items in order, and an index from members to leaves.
//!
//! A member lies in one place only, in its leaf. To find one without knowing its score, the index gives the leaf, and
//! the leaf has a tag of each member's hash. So the index needs eight bytes per member; the score is not in it, nor is
//! anything searched by score: it makes no difference if all scores are equal. What it costs is that an item which moves
//! to another leaf must be looked up in the index: each split and each join of leaves has up to 48 such look-ups, which is about
//! one per insertion. (The alternative, an index that gives the score and a search of the tree for it, takes twelve bytes
//! per member, and cannot find the member that belongs to a hash among many of one score, which a walk by hash must do.)
//!
//! Walks ([`Large::scan`]) go through the index in the order of hashes. The hash of a member never changes, and each step
//! covers all hashes from its cursor to the next one: a member that stays is met, wherever its score takes it.
//!
//! Owned by the core whose shard holds the collection.

use super::cut::Cut;
use super::growth;
use super::hash32;
use super::index::{Entry, Index};
use super::leaf::tag;
use super::tree::{Items, Tree};

/// See the module.
#[derive(Debug, Default)]
pub struct Large {
    tree: Tree,
    index: Index,
}

impl Clone for Large {
    fn clone(&self) -> Self {
        let mut clone = Large { tree: self.tree.clone(), index: self.index.clone() };
        clone.tree.recount();
        clone.index.recount();
        clone
    }
}

impl Large {
    /// Items.
    #[inline]
    pub fn len(&self) -> usize {
        self.tree.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes charged, with those of the structure itself, which is in a box.
    pub fn bytes(&self) -> usize {
        growth::allocated(size_of::<Self>()) + self.tree.bytes() + self.index.bytes()
    }

    /// Leaf and place of a member.
    #[inline]
    fn find(&self, member: &[u8], hash: u32) -> Option<(u32, usize)> {
        self.index.leaves(hash).find_map(|id| Some((id, self.tree.leaf(id).find(member, tag(hash))?)))
    }

    /// The score of a member.
    pub fn score(&self, member: &[u8]) -> Option<f64> {
        let (leaf, at) = self.find(member, hash32(member))?;
        Some(self.tree.leaf(leaf).score(at))
    }

    /// Rank and score of a member.
    pub fn rank(&self, member: &[u8]) -> Option<(usize, f64)> {
        let (leaf, at) = self.find(member, hash32(member))?;
        let score = self.tree.leaf(leaf).score(at);
        let path = self.tree.path_to_item(score, member);
        debug_assert_eq!(path.leaf, leaf);
        Some((self.tree.items_before(&path) + at, score))
    }

    /// The item of this rank, which must exist.
    pub fn get(&self, rank: usize) -> (&[u8], f64) {
        self.tree.get(rank)
    }

    /// The number of items before `cut`.
    pub fn before(&self, cut: &Cut) -> usize {
        self.tree.before(cut)
    }

    /// The items with ranks from `start` on and before `end`. `start <= end <= len`.
    pub fn items(&self, start: usize, end: usize, backwards: bool) -> Items<'_> {
        self.tree.items(start, end, backwards)
    }

    /// Adds a member or changes its score; the score it had.
    pub fn insert(&mut self, member: &[u8], score: f64) -> Option<f64> {
        let hash = hash32(member);
        let Some((leaf, at)) = self.find(member, hash) else {
            self.add(member, score, hash);
            return None;
        };
        let old = self.tree.leaf(leaf).score(at);
        if old != score && !self.tree.set_score_in_place(leaf, at, score) {
            self.take(member, old, hash, leaf, at);
            self.add(member, score, hash);
        }
        Some(old)
    }

    /// Adds an item that is not there.
    fn add(&mut self, member: &[u8], score: f64, hash: u32) {
        let index = &mut self.index;
        let moved = |member: &[u8], from, to| index.moved(Entry { hash: hash32(member), leaf: from }, to);
        let leaf = self.tree.insert(score, member, tag(hash), moved);
        self.index.insert(Entry { hash, leaf });
    }

    /// Removes an item that is there.
    fn take(&mut self, member: &[u8], score: f64, hash: u32, leaf: u32, at: usize) {
        let path = self.tree.path_to_item(score, member);
        debug_assert_eq!(path.leaf, leaf);
        self.index.remove(Entry { hash, leaf });
        let index = &mut self.index;
        self.tree.remove(&path, at, |member, from, to| index.moved(Entry { hash: hash32(member), leaf: from }, to));
    }

    /// Removes a member; the score it had.
    pub fn remove(&mut self, member: &[u8]) -> Option<f64> {
        let hash = hash32(member);
        let (leaf, at) = self.find(member, hash)?;
        let score = self.tree.leaf(leaf).score(at);
        self.take(member, score, hash, leaf, at);
        Some(score)
    }

    /// Removes the item of this rank, which must exist.
    pub fn remove_at(&mut self, rank: usize) {
        let (path, at) = self.tree.path_by_rank(rank);
        let hash = hash32(self.tree.leaf(path.leaf).member(at));
        self.index.remove(Entry { hash, leaf: path.leaf });
        let index = &mut self.index;
        self.tree.remove(&path, at, |member, from, to| index.moved(Entry { hash: hash32(member), leaf: from }, to));
    }

    /// Shows the items whose hashes are at `cursor` or behind it, at least `count` of them if there are so many, and not
    /// many more. The cursor to go on with; None at the end. Begins at 0.
    pub fn scan(&self, cursor: u32, count: usize, mut seen: impl FnMut(&[u8], f64)) -> Option<u32> {
        let (mut cursor, mut left) = (cursor, count);
        loop {
            let (entries, next) = self.index.segment_of(cursor);
            for (at, entry) in entries.iter().enumerate() {
                // Equal entries stand for members of one leaf with one hash: the first finds them all.
                if entry.hash >= cursor && !entries[..at].contains(entry) {
                    left = left.saturating_sub(self.scan_leaf(entry, &mut seen));
                }
            }
            cursor = next?;
            if left == 0 {
                return Some(cursor);
            }
        }
    }

    /// Shows the items that belong to an entry of the index; their number.
    fn scan_leaf(&self, entry: &Entry, seen: &mut impl FnMut(&[u8], f64)) -> usize {
        let leaf = self.tree.leaf(entry.leaf);
        let mut found = 0;
        for at in leaf.with_tag(tag(entry.hash)).filter(|&at| hash32(leaf.member(at)) == entry.hash) {
            found += 1;
            seen(leaf.member(at), leaf.score(at));
        }
        found
    }

    /// Has no items from now on, but still their memory. Only [`Large::free_some`] may follow.
    pub fn abandon(&mut self) {
        self.tree.abandon();
    }

    /// Frees up to about `allocations`; true as long as there are more. What is left is a wreck that only this function
    /// may see.
    pub fn free_some(&mut self, allocations: usize) -> bool {
        self.tree.free_some(allocations) || self.index.free_some(allocations)
    }

    /// Checks the structure.
    #[cfg(test)]
    pub fn validate(&self) {
        self.tree.validate();
        assert_eq!(self.index.validate(), self.len());
        for (rank, (member, score)) in self.items(0, self.len(), false).enumerate() {
            assert_eq!(self.rank(member), Some((rank, score)));
        }
    }
}
