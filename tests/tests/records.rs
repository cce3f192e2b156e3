//! What peers do with TLS 1.3 records, from the ordinary to the hostile: the application gets every byte that is
//! authentic and no other, and an end that is the peer's own or a reset. The scripts' words are in `src/peer`.

use mtls_tests::foreign::{BOTH_WAYS, Foreign, then_ends};

/// Runs the two scripts with the partner as the client and as the server; both ends are clean.
#[track_caller]
fn serves(application: &[&str], peer: &[&str]) {
    let foreign = Foreign::new();
    for inbound in BOTH_WAYS {
        foreign.run(inbound, application, peer).ends("");
    }
}

/// Question and answer, then the peer does `attack` and says one thing more: not a byte of that reaches the
/// application, which is reset; the record gives the reason; the peer gets one of `alerts` ("": any end will do).
#[track_caller]
fn refuses(attacks: &[(&str, &str)]) {
    let foreign = Foreign::new();
    for (attack, alerts) in attacks {
        let alert = if alerts.is_empty() { "expect-end".into() } else { format!("expect-alert:{alerts}") };
        for inbound in BOTH_WAYS {
            let told = foreign.run(
                inbound,
                &["expect:hello", "data:welcome", "expect-rst"],
                &["data:hello", "expect:welcome", attack, "try:data:more", &alert],
            );
            let told = told.ends("record_error");
            assert!(!told.record.detail().is_empty() && !told.record.mend().is_empty(), "{attack}: {told:?}");
            assert_eq!(told.record.received(), 5, "{attack}: {told:?}");
        }
    }
    foreign.pair.works();
}

#[test]
fn every_cipher_suite_of_tls_1_3_is_served() {
    let foreign = Foreign::new();
    for suite in ["AES_128_GCM_SHA256", "AES_256_GCM_SHA384", "CHACHA20_POLY1305_SHA256"] {
        for inbound in BOTH_WAYS {
            let peer = then_ends(&["--suite", suite, "send:300000", "receive:300000"]);
            let told = foreign.run(inbound, &["receive:300000", "send:300000", "expect-eof", "fin"], &peer);
            let told = told.ends("");
            assert!(
                told.record.0.pointer("/tls/suite").is_some_and(|s| s.as_str().unwrap_or("").contains(suite))
            );
        }
    }
}

#[test]
fn a_fatal_alert_of_the_peer_reaches_the_application_as_a_reset() {
    let foreign = Foreign::new();
    for alert in ["alert:2:internal_error", "alert:2:decode_error", "alert:2:certificate_revoked"] {
        for inbound in BOTH_WAYS {
            let peer = ["data:hello", "expect:welcome", alert, "sleep:200"];
            let told = foreign.run(inbound, &["expect:hello", "data:welcome", "expect-rst"], &peer);
            let told = told.because("record_error", "alert");
            assert_eq!(told.record.received(), 5, "{told:?}");
        }
    }
}

#[test]
fn a_peers_user_canceled_is_no_error() {
    let application = ["expect:hello", "data:welcome", "expect-eof", "fin"];
    serves(&application, &then_ends(&["data:hello", "expect:welcome", "alert:1:user_canceled"]));
}

#[test]
fn tickets_of_a_server_are_ignored() {
    let foreign = Foreign::new();
    let application = ["receive:200000", "send:200000", "expect-eof", "fin"];
    for ticket in ["ticket", "ticket-fragmented"] {
        let peer = [ticket, ticket, "send:100000", ticket, "send:100000", "receive:200000", ticket];
        foreign.outbound(&application, &then_ends(&peer)).ends("");
    }
}

#[test]
fn a_ticket_of_a_client_is_refused() {
    let foreign = Foreign::new();
    let peer = ["data:hello", "expect:welcome", "ticket", "try:data:more", "expect-alert:unexpected_message"];
    foreign.inbound(&["expect:hello", "data:welcome", "expect-rst"], &peer).ends("record_error");
}

#[test]
fn padded_records_arrive_without_their_padding() {
    let application = ["expect:onetwothreefour", "data:welcome", "expect-eof", "fin"];
    let peer = ["padded:1:one", "padded:300:two", "padded:16379:three", "padded:0:four", "expect:welcome"];
    serves(&application, &then_ends(&peer));
}

#[test]
fn empty_records_are_no_end_and_cost_no_byte() {
    let mut peer = Vec::new();
    for _ in 0..40 {
        peer.extend(["empty:25", "send:5000", "padded:2000:", "send:5000"]);
    }
    peer.extend(["receive:1000"]);
    serves(&["receive:400000", "send:1000", "expect-eof", "fin"], &then_ends(&peer));
}

#[test]
fn a_flood_of_empty_records_ends_the_connection_and_holds_nobody_up() {
    refuses(&[("empty:33", ""), ("try:empty:50000", "")]);
}

#[test]
fn records_of_one_byte_arrive_in_order() {
    let peer = ["send:5000:1", "tiny:and some text", "receive:5000"];
    let application = ["receive:5000", "expect:and some text", "send:5000:1", "expect-eof", "fin"];
    serves(&application, &then_ends(&peer));
}

#[test]
fn records_of_every_size_around_the_largest_arrive() {
    let sizes =
        ["send:32768:16384", "send:32768:16383", "send:32767:16384", "send:16385:16384", "receive:16385"];
    let application = ["receive:114688", "send:16385:16385", "expect-eof", "fin"];
    serves(&application, &then_ends(&sizes));
}

#[test]
fn records_in_many_segments_are_put_together() {
    let peer =
        ["segments:1:1", "data:byte by byte", "segments:7:0", "send:20000", "segments:1400:5", "send:50000"];
    let peer = [&peer[..], &["segments:0:0", "data:done", "expect:welcome"]].concat();
    let application =
        ["expect:byte by byte", "receive:70000", "expect:done", "data:welcome", "expect-eof", "fin"];
    serves(&application, &then_ends(&peer));
}

#[test]
fn data_in_the_same_segment_as_the_peers_finished_arrives() {
    let application = ["expect:early bird", "expect:later", "data:welcome", "expect-eof", "fin"];
    serves(&application, &then_ends(&["--with-finished", "early bird", "data:later", "expect:welcome"]));
}

#[test]
fn a_corrupted_record_resets_the_application_before_any_of_its_bytes() {
    refuses(&[("corrupt:evil", "bad_record_mac")]);
}

#[test]
fn a_corrupted_record_in_the_middle_of_a_transfer_is_noticed() {
    let foreign = Foreign::new();
    for inbound in BOTH_WAYS {
        // The application has the first half before the bad record is sent, so that it must have all of it.
        let told = foreign.run(
            inbound,
            &["receive:1000000", "data:half", "expect-rst"],
            &[
                "send:1000000",
                "expect:half",
                "corrupt:evil",
                "try:send:1000000",
                "expect-alert:bad_record_mac",
            ],
        );
        let told = told.ends("record_error");
        assert_eq!(told.record.received(), 1_000_000, "{told:?}");
    }
}

#[test]
fn a_record_that_is_too_long_is_refused() {
    refuses(&[("oversize", "record_overflow"), ("padded:16385:", "record_overflow")]);
}

#[test]
fn plaintext_in_the_middle_is_refused() {
    // With a type of its own, userspace TLS sees at once what the kernel sees only by decrypting.
    refuses(&[
        ("plaintext-record:23:hello", "bad_record_mac"),
        ("plaintext-record:23:a plaintext that is longer than a tag", "bad_record_mac"),
        ("plaintext-alert:2:internal_error", "bad_record_mac|unexpected_message"),
        ("plaintext-record:22:a plaintext that is longer than a tag", "bad_record_mac|unexpected_message"),
        ("plaintext-record:20:\u{1}", "bad_record_mac|unexpected_message"),
    ]);
}

#[test]
fn a_plaintext_close_notify_is_no_end() {
    refuses(&[("plaintext-alert:1:close_notify", "bad_record_mac|unexpected_message")]);
}

#[test]
fn records_that_no_peer_should_send_are_refused() {
    refuses(&[
        ("bad-type:99", "decode_error|unexpected_message"),
        ("bad-type:0", ""),
        ("handshake-garbage", "unexpected_message"),
    ]);
}

#[test]
fn an_end_without_close_notify_is_truncation() {
    let foreign = Foreign::new();
    for last in ["sleep:1", "half:of a record"] {
        for inbound in BOTH_WAYS {
            let peer = ["data:hello", "expect:welcome", last, "fin", "sleep:200"];
            let told = foreign.run(inbound, &["expect:hello", "data:welcome", "expect-rst"], &peer);
            let told = told.ends("truncated");
            assert_eq!(told.record.received(), 5, "{told:?}");
        }
    }
}

#[test]
fn a_peer_that_has_ended_its_direction_still_receives() {
    let application = ["receive:100000", "expect-eof", "send:6000000", "fin"];
    // With FIN, and without: close_notify alone is the end.
    serves(&application, &["send:100000", "close-notify", "fin", "receive:6000000", "expect-close-notify"]);
    serves(&application, &["send:100000", "close-notify", "receive:6000000", "expect-close-notify", "fin"]);
}

#[test]
fn an_application_that_has_ended_its_direction_still_receives() {
    let application = ["send:100000", "fin", "receive:6000000", "expect-eof"];
    let peer = ["receive:100000", "expect-close-notify", "send:6000000", "close-notify", "fin", "expect-eof"];
    serves(&application, &peer);
}

#[test]
fn both_may_end_at_the_same_time() {
    let foreign = Foreign::new();
    for _ in 0..10 {
        for inbound in BOTH_WAYS {
            let application = ["send:20000", "fin", "receive:20000", "expect-eof"];
            let peer =
                ["send:20000", "close-notify", "fin", "receive:20000", "expect-close-notify", "expect-eof"];
            foreign.run(inbound, &application, &peer).ends("");
        }
    }
}

#[test]
fn what_follows_close_notify_is_ignored() {
    let foreign = Foreign::new();
    for after in ["data:evil", "corrupt:evil", "plaintext-record:23:evil", "alert:2:internal_error"] {
        for inbound in BOTH_WAYS {
            let told = foreign.run(
                inbound,
                &["expect:hello", "expect-eof", "data:welcome", "fin"],
                &["data:hello", "close-notify", after, "expect:welcome", "expect-close-notify"],
            );
            let told = told.ends("");
            assert_eq!(told.record.received(), 5, "{after}: {told:?}");
        }
    }
}

#[test]
fn a_reset_by_the_peer_reaches_the_application_as_a_reset() {
    let foreign = Foreign::new();
    for inbound in BOTH_WAYS {
        let application = ["expect:hello", "data:welcome", "expect-rst"];
        foreign.run(inbound, &application, &["data:hello", "expect:welcome", "rst"]).ends("reset");
        // In the middle of what the application sends.
        let application = ["expect:hello", "expect-broken-by-rst"];
        foreign.run(inbound, &application, &["data:hello", "expect:more", "rst"]).ends("reset");
    }
}

#[test]
fn a_reset_by_the_application_reaches_the_peer_as_a_reset() {
    let foreign = Foreign::new();
    for inbound in BOTH_WAYS {
        let application = ["expect:hello", "data:welcome", "expect:last", "rst"];
        let peer = ["data:hello", "expect:welcome", "data:last", "expect-rst"];
        foreign.run(inbound, &application, &peer).ends("reset");
    }
}

#[test]
fn a_reset_after_half_a_close_is_still_a_reset() {
    let foreign = Foreign::new();
    for inbound in BOTH_WAYS {
        let application = ["data:hello", "fin", "expect:welcome", "expect-rst"];
        let peer = ["expect:hello", "expect-close-notify", "data:welcome", "sleep:300", "rst"];
        foreign.run(inbound, &application, &peer).ends("reset");
        let application = ["expect:hello", "expect-eof", "data:welcome", "expect-broken"];
        let peer = ["data:hello", "close-notify", "fin", "expect:welcome", "rst"];
        foreign.run(inbound, &application, &peer).ends("reset");
        let application = ["expect:hello", "expect-eof", "data:welcome", "sleep:300", "rst"];
        let peer = ["data:hello", "close-notify", "fin", "expect:welcome", "expect-rst"];
        foreign.run(inbound, &application, &peer).ends("reset");
    }
}

#[test]
fn a_client_that_speaks_mtlsd_1_gets_the_preface_first() {
    let foreign = Foreign::new();
    let application = ["expect:hello", "data:welcome", "expect-eof", "fin"];
    let peer = ["--alpn", "mtlsd/1", "expect-preface", "data:hello", "expect:welcome"];
    foreign.inbound(&application, &then_ends(&peer)).ends("");
    // The server speaks at once, and so does the client.
    let application = ["data:welcome", "expect:hello", "expect-eof", "fin"];
    let peer = ["--alpn", "mtlsd/1", "--with-finished", "hello", "expect-preface", "expect:welcome"];
    foreign.inbound(&application, &then_ends(&peer)).ends("");
}

#[test]
fn the_preface_of_a_server_is_taken_however_it_is_cut() {
    let foreign = Foreign::new();
    let application = ["expect:hello", "data:welcome", "expect-eof", "fin"];
    let starts: [&[&str]; 5] = [
        &["preface", "data:hello"],
        &["preface:hello"],
        &["preface-tiny", "data:hello"],
        &["empty:3", "preface:he", "padded:100:llo"],
        &["segments:1:1", "preface:hel", "ticket-fragmented", "segments:0:0", "data:lo"],
    ];
    for start in starts {
        let peer = [&["--alpn", "mtlsd/1"], start, &["expect:welcome"]].concat();
        foreign.outbound(&application, &then_ends(&peer)).ends("");
    }
}

#[test]
fn what_may_be_a_key_update_before_the_preface_keeps_the_connection_in_user_space() {
    let foreign = Foreign::new();
    let kernel_tls = foreign.pair.daemon.best_relay() == "relay-ktls";
    let foreign = foreign.in_user_space();
    let application = ["expect:hello", "data:welcome", "expect-eof", "fin"];
    let peer = ["--alpn", "mtlsd/1", "ticket", "segments:1:1", "preface:hel", "data:lo", "expect:welcome"];
    let told = foreign.outbound(&application, &then_ends(&peer)).ends("");
    let why = told.record.0["why_not_better"].as_str().unwrap_or_default();
    assert_eq!(why.contains("may be a KeyUpdate"), kernel_tls, "{why}");
}
