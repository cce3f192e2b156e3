use super::*;

/// `(major, minor)` of the running kernel.
fn kernel() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse().ok());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// What the probe found, and how long it took; says so where there is no kTLS.
fn found(test: impl Fn()) -> Option<Abilities> {
    let started = std::time::Instant::now();
    let outcome = probe();
    println!("{:?} in {:?}: {outcome:?}", kernel(), started.elapsed());
    match outcome {
        Ok(abilities) => Some(abilities),
        Err(Unavailable::NoModule { .. }) => {
            crate::testing::could_not_run(test, "no kTLS in this kernel");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn the_probe_agrees_with_what_the_kernel_lists() {
    let answer = probe();
    // Afterwards, since the probe may have had the module loaded.
    assert_eq!(listed(), !matches!(answer, Err(Unavailable::NoModule { .. })), "{answer:?}");
}

#[test]
fn every_suite_works_where_there_is_ktls() {
    let Some(abilities) = found(every_suite_works_where_there_is_ktls) else { return };
    assert_eq!(abilities.suites, Suite::ALL, "{:?}", abilities.missing);
    assert!(Suite::ALL.into_iter().all(|suite| abilities.can(suite)) && abilities.missing.is_empty());
}

#[test]
fn keys_can_be_replaced_from_linux_6_14_on() {
    let Some(abilities) = found(keys_can_be_replaced_from_linux_6_14_on) else { return };
    assert_eq!(abilities.rekey, kernel() >= (6, 14), "{abilities:?}");
    assert_eq!(abilities.why_no_rekey.is_none(), abilities.rekey);
    if let Some(why) = abilities.why_no_rekey {
        assert!(why.contains("EBUSY") && why.contains("6.14"), "{why}");
    }
}

#[test]
fn the_splice_defect_of_linux_6_12_is_found_there_and_not_on_6_1_nor_7_2() {
    let Some(abilities) = found(the_splice_defect_of_linux_6_12_is_found_there_and_not_on_6_1_nor_7_2) else {
        return;
    };
    let found = abilities.defects.contains(&Defect::SpliceIntoFilledPipe);
    match kernel() {
        (6, 12) => assert!(found),
        (6, 1) | (7, 2..) => assert!(!found),
        other => println!("{other:?}: {found}"),
    }
}

#[test]
fn the_sendfile_defect_is_found_up_to_linux_6_4() {
    let Some(abilities) = found(the_sendfile_defect_is_found_up_to_linux_6_4) else { return };
    assert_eq!(abilities.has(Defect::SendfileStalls), kernel() < (6, 5), "{abilities:?}");
}

#[test]
fn only_net_admin_has_the_kernel_load_a_module() {
    assert!(has_net_admin("Name:\tx\nCapEff:\t000001fffeffffff\n"));
    assert!(has_net_admin("CapEff:\t0000000000001000\n"));
    for status in ["CapEff:\t0000000000010000\n", "CapEff:\tx\n", "CapPrm:\t0000000000001000\n", ""] {
        assert!(!has_net_admin(status), "{status}");
    }
}

#[test]
fn every_reason_names_the_thing_and_the_mend() {
    let missing = |suite, errno| {
        let failure = Failure::Call("setsockopt(TLS_TX)", errno);
        Missing { suite, why: failure.of_suite(suite) }
    };
    let none = vec![
        missing(Suite::Aes128Gcm, Errno::ENOENT),
        missing(Suite::Aes256Gcm, Errno::EINVAL),
        missing(Suite::ChaCha20Poly1305, Errno::ENOENT),
    ];
    for (error, parts) in [
        (Unavailable::NoModule { may_load: true }, &["no kTLS", "ENOENT", "modprobe tls", "CONFIG_TLS"][..]),
        (Unavailable::NoModule { may_load: false }, &["no kTLS", "CAP_NET_ADMIN", "modprobe tls"]),
        (Unavailable::Refused(Errno::EPERM), &["EPERM", "security module", "let mtlsd set TCP_ULP"]),
        (Unavailable::Refused(Errno::ENOMEM), &["ENOMEM", "dmesg"]),
        (
            Unavailable::NoLoopback(std::sync::Arc::new(std::io::ErrorKind::NetworkUnreachable.into())),
            &["no loopback connection", "bring the interface `lo` up"],
        ),
        (
            Unavailable::NoSuite(none),
            &["TLS_AES_128_GCM_SHA256: ", "modprobe gcm", "Linux 5.11", "modprobe chacha20poly1305"],
        ),
        (
            Unavailable::Splice(Failure::NoAnswer("data")),
            &["splice", "did not answer (data)", "use another kernel"],
        ),
        (Unavailable::Control(Failure::Call("recvmsg()", Errno::EIO)), &["control records", "EIO"]),
        (Unavailable::Close(Failure::Wrong("it is odd".to_owned())), &["end a stream", "it is odd"]),
    ] {
        let text = error.to_string();
        for part in parts {
            assert!(text.contains(part), "{text} lacks {part}");
        }
        assert!(!text.ends_with('.'), "{text}");
        assert_eq!(error.is_for_want_of_the_module(), matches!(error, Unavailable::NoModule { .. }));
    }
}

#[test]
fn a_pair_is_one_connection() {
    let pair = Pair::connect().unwrap();
    assert_eq!(pair.near.local_addr().unwrap(), pair.far.peer_addr().unwrap());
    pair.send_all(&pair.near, b"x").unwrap();
    pair.wait_to_read(&pair.far).unwrap();
}

#[test]
fn what_is_not_tls_fails_instead_of_passing() {
    let pair = Pair::connect().unwrap();
    // A plain socket gives no record types: data without one must not count as decrypted.
    let failure = pair.transfer(&pair.near, &pair.far, b"plain").unwrap_err();
    assert!(matches!(&failure, Failure::Wrong(what) if what.contains("record type")), "{failure:?}");
}

#[test]
fn a_kernel_that_says_nothing_is_a_failure_in_time() {
    let pair = Pair::connect().unwrap();
    let started = std::time::Instant::now();
    let failure = pair.expect_eof(&pair.far).unwrap_err();
    assert_eq!(failure, Failure::NoAnswer("something to read"));
    assert!(failure.to_string().contains("did not answer"));
    assert!(started.elapsed() < pair::PATIENCE * 5, "{:?}", started.elapsed());
}
