//! Vectors that grow to the next size of the allocator, not to twice their size.
//!
//! The allocator has four sizes for each doubling, so that a vector which takes the next one at each growth wastes an
//! eighth of itself on average, and what is charged for it is what it takes. Pure functions; no core owns anything here.

pub use crate::shard::allocated;

/// Bytes charged for the buffer of `vec`.
#[inline]
pub fn charge<T>(vec: &Vec<T>) -> usize {
    allocated(vec.capacity() * size_of::<T>())
}

/// Elements that fit into what the allocator gives for `len` of them.
fn fitting<T>(len: usize) -> usize {
    allocated(len * size_of::<T>()) / size_of::<T>()
}

/// Makes room for `more` elements.
#[inline]
pub fn reserve<T>(vec: &mut Vec<T>, more: usize) {
    let len = vec.len() + more;
    if len > vec.capacity() {
        vec.reserve_exact(fitting::<T>(len) - vec.len());
    }
}

/// Gives back what is spare if that is more than a quarter: so a vector that has just shrunk does not grow at once.
#[inline]
pub fn shrink<T>(vec: &mut Vec<T>) {
    let len = vec.len();
    let wanted = fitting::<T>(len + len / 4);
    if wanted < vec.capacity() {
        vec.shrink_to(wanted);
    }
}

/// The elements from `at` on, in a vector of their own; what they took is given back.
pub fn split_off<T: Copy>(vec: &mut Vec<T>, at: usize) -> Vec<T> {
    let mut rest = Vec::new();
    reserve(&mut rest, vec.len() - at);
    rest.extend_from_slice(&vec[at..]);
    vec.truncate(at);
    vec.shrink_to(fitting::<T>(at));
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_take_what_the_allocator_gives() {
        let mut vec: Vec<u32> = Vec::new();
        let mut sizes = Vec::new();
        for n in 0..64 {
            reserve(&mut vec, 1);
            vec.push(n);
            if sizes.last() != Some(&charge(&vec)) {
                sizes.push(charge(&vec));
            }
        }
        assert_eq!(sizes, [16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256]);
        let rest = split_off(&mut vec, 20);
        assert_eq!((vec.len(), charge(&vec), rest.len(), charge(&rest)), (20, 80, 44, 192));
        vec.truncate(17);
        shrink(&mut vec);
        assert_eq!(vec.capacity(), 20);
        vec.truncate(12);
        shrink(&mut vec);
        assert_eq!(vec.capacity(), 16);
        vec.clear();
        shrink(&mut vec);
        assert_eq!(charge(&vec), 0);
    }
}
