//! Sessions: few, shared, and opened again when they are lost.

use std::sync::Barrier;

use super::*;

#[test]
fn a_session_that_is_lost_is_opened_again() {
    alone(|hsm| {
        let (token, key) = token_with_key(hsm);
        for _ in 0..3 {
            // Ends the login of every session, and with it every handle of a private key.
            token.with("log out", |open| Ok(open.session.logout()?)).unwrap();
            assert!(verifies(&key, b"hello", &key.sign_message(b"hello").unwrap()));
        }
    });
}

#[test]
fn a_token_that_was_initialised_anew_is_reported_and_nothing_else_signs() {
    alone(|hsm| {
        let (_, key) = token_with_key(hsm);
        hsm.delete("mesh");
        hsm.init("mesh");
        keygen("EC:prime256v1", "web-key", "01");
        let error = key.sign_message(b"hello").unwrap_err();
        // SoftHSM looks for tokens only when it is loaded. Another module may show the new one: then its key is another.
        assert!(matches!(error, Pkcs11Error::TokenAbsent { .. } | Pkcs11Error::OtherKey { .. }), "{error:?}");
        if matches!(error, Pkcs11Error::TokenAbsent { .. }) {
            assert!(error.to_string().contains("restart mtlsd"), "{error}");
        }
    });
}

#[test]
fn a_key_that_was_replaced_under_its_label_signs_nothing() {
    alone(|hsm| {
        let (token, key) = token_with_key(hsm);
        tool("mesh", &["--delete-object", "--type", "privkey", "--id", "01"]);
        tool("mesh", &["--delete-object", "--type", "pubkey", "--id", "01"]);
        keygen("EC:prime256v1", "web-key", "01");
        let error = key.sign_message(b"hello").unwrap_err();
        assert!(matches!(error, Pkcs11Error::OtherKey { .. }), "{error:?}");
        assert!(TokenKey::find(&token, "web-key").unwrap().sign_message(b"hello").is_ok());
    });
}

#[test]
fn many_threads_share_a_few_sessions() {
    alone(|hsm| {
        let (token, key) = token_with_key(hsm);
        std::thread::scope(|scope| {
            for _ in 0..64 {
                scope.spawn(|| {
                    for _ in 0..10 {
                        assert!(verifies(&key, b"hello", &key.sign_message(b"hello").unwrap()));
                    }
                });
            }
        });
        let (idle, out) = token.sessions();
        assert!((1..=MAX_SESSIONS).contains(&idle) && out == 0, "{idle} {out}");
    });
}

#[test]
fn a_token_that_hangs_holds_a_bounded_number_of_threads() {
    alone(|hsm| {
        let (token, key) = token_with_key(hsm);
        let (all_out, end) = (Barrier::new(MAX_SESSIONS + 1), Barrier::new(MAX_SESSIONS + 1));
        std::thread::scope(|scope| {
            for _ in 0..MAX_SESSIONS {
                scope.spawn(|| {
                    token.with("hang", |_| {
                        all_out.wait();
                        end.wait();
                        Ok(())
                    })
                });
            }
            all_out.wait();
            let error = key.sign_message(b"hello").unwrap_err().to_string();
            end.wait();
            assert!(error.contains("all 8 sessions with token mesh were busy for 5s"), "{error}");
        });
        assert!(key.sign_message(b"hello").is_ok());
    });
}

#[test]
fn a_task_that_signs_does_not_stop_the_other_tasks_of_its_thread() {
    alone(|hsm| {
        let (token, key) = token_with_key(hsm);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let barrier = Arc::new(Barrier::new(MAX_SESSIONS + 1));
        let hang = |barrier: Arc<Barrier>| {
            let token = Arc::clone(&token);
            std::thread::spawn(move || {
                token.with("hang", |_| {
                    barrier.wait();
                    barrier.wait();
                    Ok(())
                })
            })
        };
        let threads: Vec<_> = (0..MAX_SESSIONS).map(|_| hang(Arc::clone(&barrier))).collect();
        barrier.wait();
        let key = Arc::new(key);
        let signing = Arc::clone(&key);
        let signed = runtime.spawn(async move { signing.sign_message(b"hello") });
        // The one worker waits for a session; another task runs all the same and sets the sessions free.
        let other = runtime.spawn(async move { tokio::task::spawn_blocking(move || barrier.wait()).await });
        runtime.block_on(other).unwrap().unwrap();
        assert!(runtime.block_on(signed).unwrap().is_ok());
        for thread in threads {
            thread.join().unwrap().unwrap();
        }
    });
}
