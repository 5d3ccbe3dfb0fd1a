//! The items of a large sorted set in their order: a counted B+ tree.
//!
//! A B+ tree (D. Comer, "The Ubiquitous B-Tree", ACM Computing Surveys 11(2), 1979) whose inner nodes know how many items
//! are below each child, so that ranks are found, and items by rank, on one way from the root. Leaves hold up to 64
//! items and are linked. A full node is split in half, but at the ends of the whole order a new one is begun instead:
//! items that arrive in order leave full leaves. A node with few entries is joined with a neighbour if both fit well into
//! one.
//!
//! Leaves have numbers that they keep, and whoever wants to find an item without its score remembers the number of its
//! leaf. When an item moves to another leaf, `moved` is called with its member and the two numbers; one operation moves
//! at most a leaf's worth.
//!
//! Owned by the core whose shard holds the collection.

use super::arena::Arena;
use super::cut::Cut;
use super::inner::{CHILDREN_MAX, Child, Inner};
use super::leaf::{ITEMS_MAX, Leaf, partition_point};

/// No leaf.
pub const NONE: u32 = u32::MAX;

/// A node with at most so many entries looks for a neighbour to be joined with, ...
const SPARSE: usize = 16;
/// ... and is if both have at most so many together.
const JOINED_MAX: usize = 48;

/// Levels of inner nodes. Of two neighbours below one parent one has more than 16 entries, so that a level has at least
/// eight times the nodes of the one above it; numbers of leaves have 32 bits.
const LEVELS_MAX: usize = 12;

const _: () = assert!(8u64.pow(LEVELS_MAX as u32 - 1) > u32::MAX as u64 && ITEMS_MAX == CHILDREN_MAX);

/// The way from the root to a leaf: inner nodes, and which child of each.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    steps: [(u32, u8); LEVELS_MAX],
    levels: usize,
    pub leaf: u32,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Tree {
    leaves: Arena<Leaf>,
    inners: Arena<Inner>,
    /// An inner node, or the only leaf if there are no levels.
    root: u32,
    levels: usize,
    len: usize,
    /// Bytes charged for what the nodes own.
    node_bytes: usize,
}

impl Default for Tree {
    fn default() -> Self {
        let mut leaves = Arena::default();
        let root = leaves.insert(Leaf::new(NONE, NONE));
        Tree { leaves, inners: Arena::default(), root, levels: 0, len: 0, node_bytes: 0 }
    }
}

/// Reading.
impl Tree {
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub fn leaf(&self, id: u32) -> &Leaf {
        &self.leaves[id]
    }

    /// Bytes charged.
    pub fn bytes(&self) -> usize {
        self.node_bytes + self.leaves.bytes() + self.inners.bytes()
    }

    /// The way on which `choose` picks a child of each inner node; it is told the level of the children, 0 for leaves.
    #[inline]
    fn descend(&self, mut choose: impl FnMut(&Inner, usize) -> usize) -> Path {
        let mut path = Path { steps: [(NONE, 0); LEVELS_MAX], levels: self.levels, leaf: NONE };
        let mut node = self.root;
        for step in 0..self.levels {
            let inner = &self.inners[node];
            let at = choose(inner, self.levels - step - 1);
            path.steps[step] = (node, at as u8);
            node = inner.id(at);
        }
        path.leaf = node;
        path
    }

    /// The member of the first item below a node.
    fn first_member(&self, mut node: u32, levels: usize) -> &[u8] {
        for _ in 0..levels {
            node = self.inners[node].id(0);
        }
        self.leaves[node].member(0)
    }

    /// The way to the last leaf that begins before `cut`, or to the first leaf.
    fn path_to(&self, cut: &Cut) -> Path {
        self.descend(|inner, level| {
            let (low, high) = cut.by_scores(inner.least());
            let first = |at: usize| self.first_member(inner.id(at), level);
            let ties = partition_point(high - low, |at| cut.is_after(inner.least()[low + at], || first(low + at)));
            (low + ties).saturating_sub(1)
        })
    }

    /// Where the item is, or would be.
    pub fn path_to_item(&self, score: f64, member: &[u8]) -> Path {
        self.path_to(&Cut::Item { score, member, equal: true })
    }

    /// Items before the leaf at the end of `path`.
    pub fn items_before(&self, path: &Path) -> usize {
        path.steps[..path.levels].iter().map(|&(node, at)| self.inners[node].items_before(at as usize)).sum()
    }

    /// The number of items before `cut`.
    pub fn before(&self, cut: &Cut) -> usize {
        match cut {
            Cut::Start => return 0,
            Cut::End => return self.len,
            _ => {}
        }
        let path = self.path_to(cut);
        self.items_before(&path) + self.leaves[path.leaf].before(cut)
    }

    /// The way to item `rank`, and its index in the leaf. A rank behind the last item is at the end of the last leaf.
    pub fn path_by_rank(&self, rank: usize) -> (Path, usize) {
        let mut rank = rank.min(self.len);
        let path = self.descend(|inner, _| {
            let (at, rest) = inner.by_rank(rank);
            rank = rest;
            at
        });
        (path, rank)
    }

    /// Item `rank`. It must exist.
    pub fn get(&self, rank: usize) -> (&[u8], f64) {
        let (path, at) = self.path_by_rank(rank);
        let leaf = &self.leaves[path.leaf];
        (leaf.member(at), leaf.score(at))
    }

    /// The items from `start` on and before `end`, in the order of ranks or backwards. `start <= end <= len`.
    pub fn items(&self, start: usize, end: usize, backwards: bool) -> Items<'_> {
        let rank = if backwards { end.saturating_sub(1) } else { start };
        let (path, at) = self.path_by_rank(rank);
        Items { tree: self, leaf: &self.leaves[path.leaf], at, left: end - start, backwards }
    }
}

/// Changing.
impl Tree {
    /// Changes a score in place if the item stays between the two beside it in its leaf; false: nothing has happened.
    pub fn set_score_in_place(&mut self, leaf: u32, at: usize, score: f64) -> bool {
        let node = &self.leaves[leaf];
        if at == 0 || at + 1 >= node.len() {
            return false;
        }
        let cut = Cut::Item { score, member: node.member(at), equal: true };
        let stays = cut.is_after(node.score(at - 1), || node.member(at - 1))
            && !cut.is_after(node.score(at + 1), || node.member(at + 1));
        if stays {
            self.leaves[leaf].set_score(at, score);
        }
        stays
    }

    /// Runs `change` on a leaf and keeps the count of bytes.
    fn change_leaf<R>(&mut self, id: u32, change: impl FnOnce(&mut Leaf) -> R) -> R {
        let leaf = &mut self.leaves[id];
        let before = leaf.bytes();
        let result = change(leaf);
        self.node_bytes = self.node_bytes + leaf.bytes() - before;
        result
    }

    fn change_inner<R>(&mut self, id: u32, change: impl FnOnce(&mut Inner) -> R) -> R {
        let inner = &mut self.inners[id];
        let before = inner.bytes();
        let result = change(inner);
        self.node_bytes = self.node_bytes + inner.bytes() - before;
        result
    }

    /// Puts a leaf into the chain, behind `prev` and before `next`.
    fn add_leaf(&mut self, mut leaf: Leaf, prev: u32, next: u32) -> u32 {
        (leaf.prev, leaf.next) = (prev, next);
        self.node_bytes += leaf.bytes();
        let id = self.leaves.insert(leaf);
        if prev != NONE {
            self.leaves[prev].next = id;
        }
        if next != NONE {
            self.leaves[next].prev = id;
        }
        id
    }

    /// Takes a leaf out of the chain.
    fn take_leaf(&mut self, id: u32) -> Leaf {
        let leaf = self.leaves.remove(id);
        self.node_bytes -= leaf.bytes();
        if leaf.prev != NONE {
            self.leaves[leaf.prev].next = leaf.next;
        }
        if leaf.next != NONE {
            self.leaves[leaf.next].prev = leaf.prev;
        }
        leaf
    }

    /// Adds an item that is not there. Its leaf.
    pub fn insert(&mut self, score: f64, member: &[u8], tag: u32, moved: impl FnMut(&[u8], u32, u32)) -> u32 {
        let path = self.path_to_item(score, member);
        let (id, leaf) = (path.leaf, &self.leaves[path.leaf]);
        let at = leaf.before(&Cut::Item { score, member, equal: false });
        self.len += 1;
        if leaf.len() < ITEMS_MAX {
            self.change_leaf(id, |leaf| leaf.insert(at, score, member, tag));
            self.grown(&path, None);
            return id;
        }
        let (prev, next) = (leaf.prev, leaf.next);
        let (at_end, at_start) = (at == ITEMS_MAX && next == NONE, at == 0 && prev == NONE);
        if at_end || at_start {
            let mut leaf = Leaf::default();
            leaf.insert(0, score, member, tag);
            let new = if at_end { self.add_leaf(leaf, id, NONE) } else { self.add_leaf(leaf, NONE, id) };
            self.grown(&path, Some((Child { id: new, items: 1, least: score }, at_end)));
            return new;
        }
        let right = self.split_leaf(id, moved);
        let half = self.leaves[id].len();
        let (into, at) = if at <= half { (id, at) } else { (right, at - half) };
        self.change_leaf(into, |leaf| leaf.insert(at, score, member, tag));
        let leaf = &self.leaves[right];
        self.grown(&path, Some((Child { id: right, items: leaf.len(), least: leaf.score(0) }, true)));
        into
    }

    /// Moves the upper half of a leaf to a new one.
    fn split_leaf(&mut self, id: u32, mut moved: impl FnMut(&[u8], u32, u32)) -> u32 {
        let upper = self.change_leaf(id, |leaf| leaf.split_off(ITEMS_MAX / 2));
        let next = self.leaves[id].next;
        let right = self.add_leaf(upper, id, next);
        let leaf = &self.leaves[right];
        (0..leaf.len()).for_each(|at| moved(leaf.member(at), id, right));
        right
    }

    /// An item has been added at the end of `path`, and maybe a leaf behind (true) or before the one there.
    fn grown(&mut self, path: &Path, mut new: Option<(Child, bool)>) {
        let leaf = &self.leaves[path.leaf];
        let mut least = leaf.score(0);
        // The items of the child, if they are not one more than before.
        let mut items = new.is_some().then(|| leaf.len());
        for &(node, at) in path.steps[..path.levels].iter().rev() {
            let at = at as usize;
            let inner = &mut self.inners[node];
            inner.set_items(at, items.take().unwrap_or(inner.items(at) + 1));
            inner.set_least(at, least);
            if let Some((child, behind)) = new.take() {
                let place = at + behind as usize;
                self.change_inner(node, |inner| inner.insert(place, child));
                new = self.split_inner(node, place);
                items = new.is_some().then(|| self.inners[node].items_sum());
            }
            least = self.inners[node].least()[0];
        }
        if let Some((child, behind)) = new {
            let mut root = Inner::default();
            root.insert(0, Child { id: self.root, items: items.unwrap_or(0), least });
            root.insert(behind as usize, child);
            self.node_bytes += root.bytes();
            self.root = self.inners.insert(root);
            self.levels += 1;
            assert!(self.levels <= LEVELS_MAX, "a tree of {} items has too many levels", self.len);
        }
    }

    /// Splits an inner node if it is too full; `place` is where a child was added. The new node stands behind.
    fn split_inner(&mut self, node: u32, place: usize) -> Option<(Child, bool)> {
        let len = self.inners[node].len();
        if len <= CHILDREN_MAX {
            return None;
        }
        let from = if place + 1 == len { len - 1 } else { len / 2 };
        let upper = self.change_inner(node, |inner| inner.split_off(from));
        let (items, least) = (upper.items_sum(), upper.least()[0]);
        self.node_bytes += upper.bytes();
        Some((Child { id: self.inners.insert(upper), items, least }, true))
    }

    /// Removes item `at` of the leaf at the end of `path`.
    pub fn remove(&mut self, path: &Path, at: usize, moved: impl FnMut(&[u8], u32, u32)) {
        self.change_leaf(path.leaf, |leaf| leaf.remove(at));
        self.len -= 1;
        let mut moved = Some(moved);
        let leaf = &self.leaves[path.leaf];
        let mut least = (!leaf.is_empty()).then(|| leaf.score(0));
        for (up, &(node, at)) in path.steps[..path.levels].iter().rev().enumerate() {
            let at = at as usize;
            let inner = &mut self.inners[node];
            inner.set_items(at, inner.items(at) - 1);
            match least {
                Some(least) => {
                    inner.set_least(at, least);
                    match moved.take() {
                        Some(moved) => self.join_leaves(node, at, moved),
                        None => self.join_inners(node, at),
                    }
                }
                None => {
                    let id = inner.id(at);
                    self.change_inner(node, |inner| inner.remove(at));
                    if up == 0 {
                        self.take_leaf(id);
                        moved = None;
                    } else {
                        self.inners.remove(id);
                    }
                }
            }
            least = self.inners[node].least().first().copied();
        }
        self.lower_root();
    }

    /// The child beside child `at` that it should be joined with: the left one of the two.
    fn partner(&self, node: u32, at: usize, len_of: impl Fn(u32) -> usize) -> Option<usize> {
        let inner = &self.inners[node];
        let len = len_of(inner.id(at));
        if len > SPARSE {
            return None;
        }
        let fits = |other: usize| len + len_of(inner.id(other)) <= JOINED_MAX;
        if at + 1 < inner.len() && fits(at + 1) {
            Some(at)
        } else if at > 0 && fits(at - 1) {
            Some(at - 1)
        } else {
            None
        }
    }

    /// Joins the leaf that is child `at` of a node with one beside it, if that is due.
    fn join_leaves(&mut self, node: u32, at: usize, mut moved: impl FnMut(&[u8], u32, u32)) {
        let Some(left) = self.partner(node, at, |id| self.leaves[id].len()) else { return };
        let inner = &self.inners[node];
        let (id, next) = (inner.id(left), inner.id(left + 1));
        let leaf = self.take_leaf(next);
        (0..leaf.len()).for_each(|at| moved(leaf.member(at), next, id));
        self.change_leaf(id, |left| left.append(leaf));
        self.forget_right(node, left);
    }

    /// As [`Tree::join_leaves`], for inner nodes.
    fn join_inners(&mut self, node: u32, at: usize) {
        let Some(left) = self.partner(node, at, |id| self.inners[id].len()) else { return };
        let inner = &self.inners[node];
        let (id, next) = (inner.id(left), inner.id(left + 1));
        let right = self.inners.remove(next);
        self.node_bytes -= right.bytes();
        self.change_inner(id, |left| left.append(&right));
        self.forget_right(node, left);
    }

    /// Child `left` has got what child `left + 1` had.
    fn forget_right(&mut self, node: u32, left: usize) {
        self.change_inner(node, |inner| {
            inner.set_items(left, inner.items(left) + inner.items(left + 1));
            inner.remove(left + 1);
        });
    }

    /// Takes away levels that have become useless.
    fn lower_root(&mut self) {
        while self.levels > 0 && self.inners[self.root].len() <= 1 {
            let inner = self.inners.remove(self.root);
            self.node_bytes -= inner.bytes();
            self.levels -= 1;
            if inner.is_empty() {
                self.levels = 0;
                self.root = self.leaves.insert(Leaf::new(NONE, NONE));
                return;
            }
            self.root = inner.id(0);
        }
    }

    /// Has no items from now on, but still their memory. Only [`Tree::free_some`] may follow.
    pub fn abandon(&mut self) {
        self.len = 0;
    }

    /// Frees up to about `allocations`; true as long as there are more. The tree is a wreck then.
    pub fn free_some(&mut self, allocations: usize) -> bool {
        let mut freed = 0;
        while freed < allocations {
            if let Some(leaves) = self.leaves.pop_piece() {
                freed += leaves.iter().map(Leaf::allocations).sum::<usize>();
                self.node_bytes -= leaves.iter().map(Leaf::bytes).sum::<usize>();
            } else if let Some(inners) = self.inners.pop_piece() {
                freed += 3 * inners.len();
                self.node_bytes -= inners.iter().map(Inner::bytes).sum::<usize>();
            } else {
                return false;
            }
        }
        true
    }

    /// Counts the bytes anew, after cloning: a clone's vectors have nothing spare.
    pub fn recount(&mut self) {
        self.leaves.recount();
        self.inners.recount();
        self.node_bytes =
            self.leaves.iter().map(Leaf::bytes).sum::<usize>() + self.inners.iter().map(Inner::bytes).sum::<usize>();
    }
}

/// See [`Tree::items`].
#[derive(Clone, Debug)]
pub struct Items<'a> {
    tree: &'a Tree,
    leaf: &'a Leaf,
    /// The next item; backwards it may be at the end of the leaf before the first step only if there is none.
    at: usize,
    left: usize,
    backwards: bool,
}

impl<'a> Iterator for Items<'a> {
    type Item = (&'a [u8], f64);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        let item = (self.leaf.member(self.at), self.leaf.score(self.at));
        if self.left > 0 {
            if self.backwards {
                if self.at == 0 {
                    self.leaf = self.tree.leaf(self.leaf.prev);
                    self.at = self.leaf.len();
                }
                self.at -= 1;
            } else {
                self.at += 1;
                if self.at == self.leaf.len() {
                    self.leaf = self.tree.leaf(self.leaf.next);
                    self.at = 0;
                }
            }
        }
        Some(item)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Items<'_> {}

#[cfg(test)]
mod checks;
