//! An inner node of the tree: up to 64 children, for each the number of its items and the least of its scores.
//!
//! Owned by the core whose shard holds the collection.

use super::growth;

/// Children of an inner node.
pub const CHILDREN_MAX: usize = 64;

/// A child on its way into a node.
#[derive(Clone, Copy, Debug)]
pub struct Child {
    pub id: u32,
    pub items: usize,
    pub least: f64,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Inner {
    ids: Vec<u32>,
    items: Vec<usize>,
    /// Invariant: ascending. The score of the first item below each child.
    least: Vec<f64>,
}

impl Inner {
    #[inline]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    #[inline]
    pub fn id(&self, at: usize) -> u32 {
        self.ids[at]
    }

    #[inline]
    pub fn least(&self) -> &[f64] {
        &self.least
    }

    /// Items below child `at`.
    #[inline]
    pub fn items(&self, at: usize) -> usize {
        self.items[at]
    }

    /// Items below the children before `at`.
    #[inline]
    pub fn items_before(&self, at: usize) -> usize {
        self.items[..at].iter().sum()
    }

    /// Items below all children.
    pub fn items_sum(&self) -> usize {
        self.items.iter().sum()
    }

    /// The child under which item `rank` is, and the item's rank there. A rank behind the last item is at the end of the
    /// last child.
    pub fn by_rank(&self, mut rank: usize) -> (usize, usize) {
        for (at, &items) in self.items.iter().enumerate() {
            if rank < items || at + 1 == self.items.len() {
                return (at, rank);
            }
            rank -= items;
        }
        (0, rank)
    }

    #[inline]
    pub fn set_items(&mut self, at: usize, items: usize) {
        self.items[at] = items;
    }

    #[inline]
    pub fn set_least(&mut self, at: usize, least: f64) {
        self.least[at] = least;
    }

    /// Puts a child before child `at`. There may be one more than [`CHILDREN_MAX`] until the node is split.
    pub fn insert(&mut self, at: usize, child: Child) {
        growth::reserve(&mut self.ids, 1);
        growth::reserve(&mut self.items, 1);
        growth::reserve(&mut self.least, 1);
        self.ids.insert(at, child.id);
        self.items.insert(at, child.items);
        self.least.insert(at, child.least);
    }

    /// Removes child `at`.
    pub fn remove(&mut self, at: usize) {
        self.ids.remove(at);
        self.items.remove(at);
        self.least.remove(at);
        growth::shrink(&mut self.ids);
        growth::shrink(&mut self.items);
        growth::shrink(&mut self.least);
    }

    /// Takes the children from `at` on into a node of their own.
    pub fn split_off(&mut self, at: usize) -> Inner {
        Inner {
            ids: growth::split_off(&mut self.ids, at),
            items: growth::split_off(&mut self.items, at),
            least: growth::split_off(&mut self.least, at),
        }
    }

    /// Appends the children of the node that follows.
    pub fn append(&mut self, other: &Inner) {
        growth::reserve(&mut self.ids, other.len());
        growth::reserve(&mut self.items, other.len());
        growth::reserve(&mut self.least, other.len());
        self.ids.extend_from_slice(&other.ids);
        self.items.extend_from_slice(&other.items);
        self.least.extend_from_slice(&other.least);
    }

    /// Bytes charged for what the node owns.
    pub fn bytes(&self) -> usize {
        growth::charge(&self.ids) + growth::charge(&self.items) + growth::charge(&self.least)
    }
}
