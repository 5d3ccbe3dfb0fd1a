//! How a node comes to its lease, as a transcript.

use super::*;

#[test]
fn a_lease_counts_from_the_request() {
    let mut tenant = Tenant::new(&Settings::new(2, 300));
    let granted = |length_ms, after| LeaseAnswer::Granted { length_ms, after };
    assert_eq!((tenant.due_ms(), tenant.ends_ms()), (i64::MIN, i64::MIN));
    tenant.applied(5);
    let first = tenant.sent(1_000);
    assert_eq!(tenant.due_ms(), 1_060);
    let second = tenant.sent(1_060);
    // Out of order, late, twice.
    tenant.answered(second, 1_100, granted(300, 5));
    assert_eq!(tenant.ends_ms(), 1_360);
    tenant.answered(first, 1_200, granted(300, 5));
    tenant.answered(first, 1_250, granted(10_000, 0));
    assert_eq!(tenant.ends_ms(), 1_360);
    // It has to know more first.
    let third = tenant.sent(1_300);
    tenant.answered(third, 1_310, granted(300, 7));
    tenant.applied(6);
    assert_eq!(tenant.ends_ms(), 1_360);
    tenant.applied(7);
    assert_eq!(tenant.ends_ms(), 1_600);
    // A shorter one takes nothing back.
    let fourth = tenant.sent(1_320);
    tenant.answered(fourth, 1_330, granted(10, 7));
    assert_eq!(tenant.ends_ms(), 1_600);
    // Who is no leader is left at once.
    let fifth = tenant.sent(1_400);
    tenant.answered(fifth, 1_402, LeaseAnswer::Refused(LeaseRefusal::NotLeading));
    assert_eq!(tenant.due_ms(), 1_410);
    let sixth = tenant.sent(1_410);
    tenant.give_up();
    tenant.answered(sixth, 1_420, granted(300, 0));
    assert_eq!(tenant.ends_ms(), i64::MIN);
}
