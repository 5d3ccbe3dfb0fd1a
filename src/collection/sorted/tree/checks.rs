//! Checks of the tree, for tests: counts, least scores, order, the chain of leaves and the count of bytes.

use super::*;

impl Tree {
    /// Checks the structure.
    pub fn validate(&self) {
        self.leaves.validate();
        self.inners.validate();
        let mut chain = Vec::new();
        let items = self.validate_node(self.root, self.levels, &mut chain);
        assert_eq!(items, self.len);
        assert_eq!(chain.len(), self.leaves.iter().count());
        let mut prev = NONE;
        for (at, &id) in chain.iter().enumerate() {
            let leaf = &self.leaves[id];
            leaf.validate();
            assert!(!leaf.is_empty() || self.len == 0);
            assert_eq!((leaf.prev, leaf.next), (prev, chain.get(at + 1).copied().unwrap_or(NONE)));
            prev = id;
        }
        let mut before: Option<(&[u8], f64)> = None;
        for item in self.items(0, self.len, false) {
            let (member, score) = item;
            let cut = Cut::Item { score, member, equal: false };
            assert!(!score.is_nan() && before.is_none_or(|(member, score)| cut.is_after(score, || member)));
            before = Some(item);
        }
        let mut counted = self.clone();
        counted.node_bytes = 0;
        counted.node_bytes =
            self.leaves.iter().map(Leaf::bytes).sum::<usize>() + self.inners.iter().map(Inner::bytes).sum::<usize>();
        assert_eq!(counted.node_bytes, self.node_bytes);
    }

    /// Items below a node; appends its leaves to `chain`.
    fn validate_node(&self, node: u32, levels: usize, chain: &mut Vec<u32>) -> usize {
        if levels == 0 {
            chain.push(node);
            return self.leaves[node].len();
        }
        let inner = &self.inners[node];
        assert!(inner.len() <= CHILDREN_MAX && !inner.is_empty() && (inner.len() > 1 || node != self.root));
        for at in 0..inner.len() {
            let first = chain.len();
            assert_eq!(self.validate_node(inner.id(at), levels - 1, chain), inner.items(at));
            assert_eq!(self.leaves[chain[first]].score(0), inner.least()[at]);
        }
        inner.items_sum()
    }
}
