//! A program that fills its non-blocking socket and ends at once: are the bytes that the kernel took delivered?

use mtls_tests::hold::World;
use mtls_tests::hold::arm::RELEASED;

use super::ktls;

/// Connections of one kind; of 40 that end with close(), five and more lost bytes on every kernel.
const TRIES: u64 = 40;

/// In how many connections the client got less than the server's send() had taken, and of how many.
#[track_caller]
fn lost(end: &str, buffer: Option<usize>, arm: impl Fn(&World, &str)) -> (u64, u64) {
    let world = World::held();
    let tries = TRIES;
    let mut lost = 0;
    for number in 0..tries {
        let x = format!("x{number}");
        match buffer {
            Some(bytes) => world.connect_small(&x, bytes),
            None => world.connect(&x),
        }
        arm(&world, &x);
        let flood = world.server.tell("a", &format!("flood {x} {number}"));
        world.server.does("a", &format!("{end} {x}"), "ok");
        let got = world.client.ask("a", &format!("drain {x}"));
        let taken = world.server.answer(&flood);
        if got != taken {
            println!("{x}: {taken} bytes taken, {got} delivered, then a clean end");
            lost += 1;
        }
        for app in [&world.client, &world.server] {
            app.ask("a", &format!("close {x}"));
        }
    }
    println!("{end}: bytes lost in {lost} of {tries}");
    (lost, tries)
}

#[test]
fn without_keys_nothing_is_lost() {
    for end in ["close", "fin"] {
        assert_eq!(lost(end, None, |world, x| world.release(x)).0, 0, "{end}");
    }
}

#[test]
fn with_keys_and_a_full_release_bytes_are_lost_before_a_clean_end() {
    if !ktls(with_keys_and_a_full_release_bytes_are_lost_before_a_clean_end) {
        return;
    }
    let both =
        ["close", "fin"].map(|end| lost(end, None, |world, x| world.arm_and_release_to(x, RELEASED)).0);
    assert!(both.iter().sum::<u64>() > 0, "this kernel has no such defect any more");
}

#[test]
fn with_keys_and_a_release_to_one_byte_nothing_is_lost() {
    if !ktls(with_keys_and_a_release_to_one_byte_nothing_is_lost) {
        return;
    }
    for end in ["close", "fin"] {
        assert_eq!(lost(end, None, |world, x| world.arm_and_release_to(x, 1)).0, 0, "{end}");
    }
}

/// size_goal less the largest record: half of the first window of 64 KiB in whole segments of 1448 bytes is 31,856, and a
/// record with its header, type and tag is 16,406 bytes. The segment that waits then has room for a whole record.
pub const ROOM_FOR_A_RECORD: u32 = 31_856 - 16_406;

#[test]
fn with_keys_and_a_release_that_leaves_room_for_a_record_nothing_is_lost() {
    if !ktls(with_keys_and_a_release_that_leaves_room_for_a_record_nothing_is_lost) {
        return;
    }
    for end in ["close", "fin"] {
        let arm = |world: &World, x: &str| world.arm_and_release_to(x, ROOM_FOR_A_RECORD);
        assert_eq!(lost(end, None, arm).0, 0, "{end}");
    }
}

#[test]
fn with_keys_and_a_small_window_bytes_are_lost_in_spite_of_a_release_to_one_byte() {
    if !ktls(with_keys_and_a_small_window_bytes_are_lost_in_spite_of_a_release_to_one_byte) {
        return;
    }
    let arm = |world: &World, x: &str| world.arm_and_release_to(x, 1);
    let both = ["close", "fin"].map(|end| lost(end, Some(4096), arm).0);
    assert!(both.iter().sum::<u64>() > 0, "a record always fits, however small the window is");
}

#[test]
fn with_keys_a_close_loses_nothing_while_a_duplicate_is_open() {
    if !ktls(with_keys_a_close_loses_nothing_while_a_duplicate_is_open) {
        return;
    }
    let world = World::held();
    for number in 0..TRIES {
        let x = format!("x{number}");
        world.connect(&x);
        let duplicate = world.server.take(&x);
        world.arm_and_release_to(&x, RELEASED);
        let taken = world.server.ask("a", &format!("flood {x} {number}"));
        world.server.does("a", &format!("close {x}"), "ok");
        // What the kernel had encrypted and not yet sent follows when the client reads.
        world.client.does("a", &format!("drain {x} {taken}"), &taken);
        drop(duplicate);
        world.client.does("a", &format!("drain {x}"), "0");
        world.client.does("a", &format!("close {x}"), "ok");
    }
}
