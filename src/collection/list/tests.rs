//! Lists against a deque of vectors.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

fn items(value: &Value) -> Vec<Vec<u8>> {
    List::new(value.view()).iter_from(0).map(<[u8]>::to_vec).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Push(bool, Vec<u8>),
    Pop(bool, usize),
    Trim(prop::sample::Index, prop::sample::Index),
    Set(prop::sample::Index, Vec<u8>),
    Insert(prop::sample::Index, Vec<u8>),
    Remove(bool, usize, Vec<u8>),
}

fn item() -> impl Strategy<Value = Vec<u8>> {
    let lens = prop_oneof![8 => 0..6usize, 3 => 100..300usize, 1 => 5000..9000usize];
    (0..3u8, lens).prop_map(|(byte, len)| vec![byte; len])
}

fn step() -> impl Strategy<Value = Step> {
    use prop::sample::Index;
    prop_oneof![
        12 => (any::<bool>(), item()).prop_map(|(head, item)| Step::Push(head, item)),
        4 => (any::<bool>(), 0..4usize).prop_map(|(head, count)| Step::Pop(head, count)),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(start, end)| Step::Trim(start, end)),
        3 => (any::<Index>(), item()).prop_map(|(index, item)| Step::Set(index, item)),
        3 => (any::<Index>(), item()).prop_map(|(index, item)| Step::Insert(index, item)),
        2 => (any::<bool>(), 0..4usize, item()).prop_map(|(head, count, item)| Step::Remove(head, count, item)),
    ]
}

fn end(head: bool) -> End {
    if head { End::Head } else { End::Tail }
}

fn run(value: &mut Value, model: &mut VecDeque<Vec<u8>>, step: Step, thresholds: &Thresholds) {
    let len = model.len();
    match step {
        Step::Push(head, item) => {
            push(value, end(head), &item, thresholds);
            if head { model.push_front(item) } else { model.push_back(item) }
        }
        Step::Pop(head, count) => {
            let mut taken = Vec::new();
            let popped = pop(value, end(head), count, thresholds, |item| taken.push(item.to_vec()));
            let expected: Vec<_> =
                (0..count.min(len)).map_while(|_| if head { model.pop_front() } else { model.pop_back() }).collect();
            assert_eq!((taken, popped), (expected.clone(), expected.len()));
        }
        // Only now and then, so that lists grow.
        Step::Trim(start, stop) if len > 40 => {
            let (start, stop) = (start.index(8), len - stop.index(8));
            assert_eq!(trim(value, start, stop, thresholds), len - (stop - start));
            model.truncate(stop);
            model.drain(..start);
        }
        Step::Trim(..) => {}
        Step::Set(index, item) => {
            let index = index.index(len + 1);
            assert_eq!(set(value, index, &item, thresholds), index < len);
            if index < len {
                model[index] = item;
            }
        }
        Step::Insert(index, item) => {
            let index = index.index(len + 1);
            insert(value, index, &item, thresholds);
            model.insert(index, item);
        }
        Step::Remove(head, count, item) => {
            let removed = remove(value, end(head), count, &item, thresholds);
            let mut left = count;
            let mut keep = |other: &Vec<u8>| {
                let go = left > 0 && *other == item;
                left -= go as usize;
                !go
            };
            if head {
                model.retain(&mut keep);
            } else {
                let mut reversed: VecDeque<_> = model.drain(..).rev().collect();
                reversed.retain(&mut keep);
                model.extend(reversed.into_iter().rev());
            }
            assert_eq!(removed, len - model.len());
        }
    }
}

fn compare(value: &Value, model: &VecDeque<Vec<u8>>) {
    if let Value::Large(large) = value {
        let List::Chunks(chunks) = List::new(ValueRef::Large(large)) else { panic!("it is large") };
        chunks.validate();
        assert!(!model.is_empty(), "an empty list is compact");
    }
    let list = List::new(value.view());
    assert_eq!((list.len(), list.is_empty()), (model.len(), model.is_empty()));
    assert!(list.iter_from(0).eq(model.iter().map(Vec::as_slice)));
    for index in [0, 1, model.len() / 2, model.len().saturating_sub(1), model.len()] {
        assert_eq!(list.get(index), model.get(index).map(Vec::as_slice));
        assert!(list.iter_from(index).eq(model.iter().skip(index).map(Vec::as_slice)));
        if index < model.len() {
            assert!(list.iter_back_from(index).eq(model.iter().take(index + 1).rev().map(Vec::as_slice)));
        }
    }
    assert_eq!(list.peek(End::Head), model.front().map(Vec::as_slice));
    assert_eq!(list.peek(End::Tail), model.back().map(Vec::as_slice));
}

proptest! {
    #[test]
    fn as_a_deque(steps in prop::collection::vec(step(), 1..150), size in prop_oneof![Just(-2i64), Just(-1), Just(3), Just(1)]) {
        let thresholds = Thresholds { list_max_listpack_size: size, ..Thresholds::default() };
        let (mut value, mut model) = (Value::default(), VecDeque::new());
        for step in steps {
            run(&mut value, &mut model, step, &thresholds);
            compare(&value, &model);
        }
    }
}

#[test]
fn a_long_list_grows_and_shrinks_at_both_ends() {
    let thresholds = Thresholds::default();
    for (fill, empty) in
        [(End::Head, End::Head), (End::Head, End::Tail), (End::Tail, End::Head), (End::Tail, End::Tail)]
    {
        let mut value = Value::default();
        for i in 0..100_000u32 {
            push(&mut value, fill, &i.to_le_bytes(), &thresholds);
        }
        let Value::Large(large) = &value else { panic!("so many are a large list") };
        assert!(large.bytes() < 100_000 * 7, "{} bytes for items of 6 each", large.bytes());
        assert_eq!(large.encoding(), "quicklist");
        for i in 0..100_000u32 {
            let expected = if fill == empty { 99_999 - i } else { i };
            let popped = pop(&mut value, empty, 1, &thresholds, |item| assert_eq!(item, expected.to_le_bytes()));
            assert_eq!(popped, 1);
        }
        assert!(matches!(&value, Value::Compact(bytes) if bytes.is_empty()));
    }
}

#[test]
fn a_large_list_is_freed_in_pieces() {
    let mut value = Value::default();
    (0..10_000u32).for_each(|i| push(&mut value, End::Tail, &i.to_le_bytes(), &Thresholds::default()));
    let Value::Large(mut large) = value else { panic!("so many are a large list") };
    let mut rounds = 1;
    while large.free_some(1) {
        rounds += 1;
    }
    assert!(rounds >= 7, "{rounds}");
    assert_eq!(items(&Value::default()), Vec::<Vec<u8>>::new());
}
