//! Every gap that a watch can have: afterwards the copy is right, and it was listed anew only where that was needed.

use std::time::Duration;

use mtls_kube_double::{Act, Gone, InWatch, json, other_ca_pem};

use super::world::{World, brisk, count, has, is_current, pod, trouble, until};
use crate::kube::{MAX_PAGE_BYTES, MIN_GAP, PAGE, Reflector, Scope, Timing};

/// One list, and the copy is there.
async fn following(world: &World) -> Reflector<crate::kube::objects::Pod> {
    world.put("first");
    let pods = world.pods();
    until("the first pod", || has(&pods, "first") && world.double.watches() == 1).await;
    pods
}

#[tokio::test]
async fn changes_are_followed() {
    let world = World::new();
    let pods = following(&world).await;
    world.put("a");
    until("a", || has(&pods, "a")).await;
    let mut changed = pod("a");
    changed["spec"]["serviceAccountName"] = "cart".into();
    world.double.put("pods", changed);
    let cart = |key: &str| key == "cart";
    until("the account", || pods.with(|all| all.values().any(|pod| cart(pod.account.as_str())))).await;
    world.double.delete("pods", "shop", "a");
    until("a is gone", || !has(&pods, "a")).await;
    assert_eq!((world.double.count("list", "pods"), is_current(&pods)), (1, true));
}

#[tokio::test]
async fn a_list_comes_in_pages_of_500() {
    let world = World::new();
    world.put_many(2 * PAGE + 1);
    let pods = world.pods();
    until("all", || count(&pods) == 2 * PAGE + 1).await;
    assert_eq!((world.double.count("list", "pods"), world.double.count("page", "pods")), (1, 2));
    assert!(world.double.paths("list", "pods")[0].contains("limit=500"));
}

#[tokio::test]
async fn a_page_that_is_too_large_is_asked_for_in_smaller_ones() {
    let world = World::new();
    world.put_many(PAGE);
    world.double.next("list", "pods", 1, Act::Body(" ".repeat(MAX_PAGE_BYTES + 1)));
    let pods: Reflector<crate::kube::objects::Pod> = Reflector::start(
        world.client(Timing { answer: Duration::from_secs(20), ..brisk() }),
        Scope::default(),
        None,
    );
    until("all", || count(&pods) == PAGE).await;
    assert_eq!((world.double.count("list", "pods"), world.double.count("page", "pods")), (2, 3));
}

#[tokio::test]
async fn a_cut_watch_goes_on_where_it_was() {
    let world = World::new();
    let pods = following(&world).await;
    for round in 0..5 {
        let name = format!("p{round}");
        world.double.cut();
        world.put(&name);
        until(&name, || has(&pods, &name)).await;
    }
    assert_eq!(world.double.count("list", "pods"), 1);
}

#[tokio::test]
async fn a_watch_that_is_cut_in_the_middle_of_a_line_goes_on_where_it_was() {
    let world = World::new();
    let pods = following(&world).await;
    world.double.in_watches(InWatch::HalfLine);
    world.put("a");
    until("a", || has(&pods, "a")).await;
    assert_eq!(world.double.count("list", "pods"), 1);
}

#[tokio::test]
async fn a_watch_that_ends_in_its_time_goes_on_where_it_was() {
    let world = World::new();
    let pods = following(&world).await;
    for name in ["a", "b", "c"] {
        world.double.in_watches(InWatch::End);
        world.put(name);
        until(name, || has(&pods, name)).await;
    }
    assert_eq!((world.double.count("list", "pods"), is_current(&pods)), (1, true));
}

#[tokio::test]
async fn a_server_that_ends_each_watch_at_once_is_not_asked_without_a_pause() {
    let world = World::new();
    let _pods = following(&world).await;
    let (before, began) = (world.double.count("watch", "pods"), std::time::Instant::now());
    for _ in 0..100 {
        world.double.in_watches(InWatch::End);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let asked = world.double.count("watch", "pods") - before;
    let most = began.elapsed().as_millis() / 10 + 2;
    assert!(u128::try_from(asked).unwrap() <= most, "{asked} watches, at most {most} with pauses of 10 ms");
}

#[tokio::test]
async fn a_version_that_is_gone_is_listed_anew_whether_a_status_says_so_or_an_event() {
    for gone in [Gone::Status, Gone::Event] {
        let world = World::new();
        world.double.gone_as(gone);
        let pods = following(&world).await;
        world.double.next("watch", "pods", 1, Act::Delay(Duration::from_millis(100)));
        world.double.cut();
        world.put("a");
        world.double.delete("pods", "shop", "first");
        world.double.compact();
        until("what was missed", || has(&pods, "a") && !has(&pods, "first")).await;
        assert_eq!(world.double.count("list", "pods"), 2, "{gone:?}");
        world.put("b");
        until("b", || has(&pods, "b") && is_current(&pods)).await;
    }
}

#[tokio::test]
async fn a_watch_that_says_gone_while_it_runs_is_listed_anew() {
    let world = World::new();
    let pods = following(&world).await;
    world.double.in_watches(InWatch::Gone);
    until("a second list", || world.double.count("list", "pods") == 2 && is_current(&pods)).await;
    world.put("a");
    until("a", || has(&pods, "a")).await;
}

#[tokio::test]
async fn a_bookmark_saves_a_list() {
    let world = World::new();
    let pods = following(&world).await;
    world.double.put("services", json!({ "metadata": { "name": "s", "namespace": "shop" } }));
    world.double.in_watches(InWatch::Bookmark);
    let version = world.double.version();
    // The next watch says which version the copy has heard of.
    tokio::time::sleep(Duration::from_millis(500)).await;
    world.double.compact();
    world.double.cut();
    world.put("a");
    until("a", || has(&pods, "a")).await;
    assert_eq!(world.double.count("list", "pods"), 1);
    let watches = world.double.paths("watch", "pods");
    assert!(watches.last().unwrap().contains(&format!("resourceVersion={version}")), "{watches:?}");
}

#[tokio::test]
async fn an_error_event_of_another_kind_is_a_failure_and_no_reason_to_list() {
    let world = World::new();
    let pods = following(&world).await;
    world.double.in_watches(InWatch::Error(500));
    world.put("a");
    until("a", || has(&pods, "a")).await;
    assert_eq!(world.double.count("list", "pods"), 1);
}

#[tokio::test]
async fn a_page_that_expires_makes_the_list_begin_anew() {
    let world = World::new();
    world.put_many(2 * PAGE);
    world.double.next("page", "pods", 1, Act::Compact);
    let pods = world.pods();
    until("all", || count(&pods) == 2 * PAGE).await;
    assert_eq!(world.double.count("list", "pods"), 2);
}

#[tokio::test]
async fn a_server_that_is_away_leaves_what_is_known_with_its_age_and_is_found_again() {
    let mut world = World::new();
    let pods = following(&world).await;
    world.double.stop();
    until("behind", || trouble(&pods).contains("cannot connect to the API server")).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert!(has(&pods, "first") && pods.is_complete());
    assert!(pods.age().unwrap() >= Duration::from_secs(1), "{:?}", pods.age());
    world.put("a");
    world.double.restart();
    until("a", || has(&pods, "a") && is_current(&pods)).await;
    assert!(pods.age().unwrap() < Duration::from_millis(900), "{:?}", pods.age());
    assert_eq!(world.double.count("list", "pods"), 1);
}

#[tokio::test]
async fn a_server_that_is_away_at_the_start_is_waited_for() {
    let mut world = World::new();
    world.put("a");
    world.double.stop();
    let pods = world.pods();
    until("behind", || !trouble(&pods).is_empty()).await;
    assert!(!pods.is_complete() && pods.age().is_none() && pods.kept().is_none());
    world.double.restart();
    until("a", || has(&pods, "a")).await;
}

#[tokio::test]
async fn a_connection_that_is_dead_without_a_word_is_found_out_and_replaced() {
    let world = World::new();
    let pods = following(&world).await;
    world.double.silence();
    world.put("a");
    until("silence", || trouble(&pods).contains("nothing was heard of watch pods for 1s")).await;
    until("nor a new connection", || trouble(&pods).contains("no answer in 2s")).await;
    world.double.speak();
    until("a", || has(&pods, "a") && is_current(&pods)).await;
    assert_eq!(world.double.count("list", "pods"), 1);
}

#[tokio::test]
async fn bookmarks_keep_a_quiet_watch_open() {
    let world = World::new();
    let pods = following(&world).await;
    let watches = world.double.count("watch", "pods");
    tokio::time::sleep(Duration::from_millis(2_200)).await;
    assert_eq!(world.double.count("watch", "pods"), watches, "more than twice the idle limit of 1 s");
    assert!(pods.age().unwrap() < Duration::from_secs(1));
}

#[tokio::test]
async fn a_slow_server_is_waited_for() {
    let world = World::new();
    world.put_many(PAGE + 1);
    world.double.next("list", "pods", 1, Act::Trickle(Duration::from_millis(20)));
    world.double.next("page", "pods", 1, Act::Delay(Duration::from_millis(300)));
    world.double.next("watch", "pods", 1, Act::Delay(Duration::from_millis(300)));
    let pods = world.pods();
    until("all", || count(&pods) == PAGE + 1).await;
    world.put("late");
    until("late", || has(&pods, "late")).await;
    assert_eq!(world.double.count("list", "pods"), 1);
}

#[tokio::test]
async fn a_line_without_an_end_costs_no_more_than_4_mib_and_the_watch_goes_on() {
    let world = World::new();
    let pods = following(&world).await;
    for _ in 0..5 {
        world.double.in_watches(InWatch::Flood(1 << 20));
    }
    until("refused", || trouble(&pods).contains("more than 4194304 bytes")).await;
    world.put("a");
    until("a", || has(&pods, "a")).await;
    assert_eq!(world.double.count("list", "pods"), 1);
}

#[tokio::test]
async fn a_line_that_is_none_is_survived_and_one_that_comes_again_and_again_is_left_behind_by_a_list() {
    let world = World::new();
    let pods = following(&world).await;
    world.double.in_watches(InWatch::Line("<html>".to_owned()));
    world.put("a");
    until("a", || has(&pods, "a") && is_current(&pods)).await;
    assert_eq!(world.double.count("list", "pods"), 1);
    world.double.next("watch", "pods", 3, Act::Body("<html>\n".to_owned()));
    world.double.cut();
    until("a list", || world.double.count("list", "pods") == 2 && is_current(&pods)).await;
    world.put("b");
    until("b", || has(&pods, "b")).await;
}

#[tokio::test]
async fn an_object_that_cannot_be_read_is_refused_alone_and_its_last_good_version_stays() {
    let world = World::new();
    let bad = |name: &str| {
        let mut pod = pod(name);
        pod["status"]["podIP"] = "nonsense".into();
        pod
    };
    world.put("good");
    world.double.put("pods", bad("never"));
    world.double.put("pods", json!({ "metadata": { "name": "NO NAME", "namespace": "shop" } }));
    let pods = world.pods();
    until("good", || has(&pods, "good") && world.double.watches() == 1).await;
    assert!(!has(&pods, "never"));
    world.double.put("pods", bad("good"));
    world.double.put("pods", json!({ "metadata": { "name": "STILL NO NAME", "namespace": "shop" } }));
    world.put("after");
    until("after", || has(&pods, "after")).await;
    let refused = pods.refused();
    let names: Vec<_> = refused.iter().map(|one| (one.key.to_string(), one.has_earlier)).collect();
    assert_eq!(names, [("shop/good".to_owned(), true), ("shop/never".to_owned(), false)]);
    assert!(refused[0].why.to_string().contains("status.podIPs is \"nonsense\""));
    world.double.in_watches(InWatch::Gone);
    until("a list", || world.double.count("list", "pods") == 2 && is_current(&pods)).await;
    assert!(has(&pods, "good"), "a list does not lose the last good version either");
    world.put("good");
    world.double.delete("pods", "shop", "never");
    until("mended", || pods.refused().is_empty()).await;
}

#[tokio::test]
async fn an_object_of_the_same_name_is_another_one_and_what_was_known_of_the_first_does_not_stand_for_it() {
    let world = World::new();
    let pods = following(&world).await;
    let mut other = pod("first");
    other["metadata"]["uid"] = "another".into();
    other["status"]["podIP"] = "nonsense".into();
    world.double.put("pods", other);
    until("refused", || pods.refused().len() == 1).await;
    assert!(!has(&pods, "first"));
}

#[tokio::test]
async fn a_token_that_is_replaced_is_used_at_once() {
    let world = World::new();
    let pods = following(&world).await;
    world.double.tokens(&["new"]);
    world.double.cut();
    until("refused", || trouble(&pods).contains("does not accept the token")).await;
    world.token("new\n");
    world.put("a");
    until("a", || has(&pods, "a") && is_current(&pods)).await;
    assert_eq!(world.double.count("list", "pods"), 1);
}

#[tokio::test]
async fn a_server_with_another_root_is_not_believed_until_the_root_is_replaced() {
    let world = World::new();
    world.ca(&other_ca_pem());
    world.put("a");
    let pods = world.pods();
    until("refused", || trouble(&pods).contains("no TLS with the API server")).await;
    assert!(!pods.is_complete());
    world.ca(world.double.ca_pem());
    until("a", || has(&pods, "a")).await;
}

#[tokio::test]
async fn what_is_forbidden_is_named_with_verb_and_resource_until_it_is_allowed() {
    let world = World::new();
    world.put("a");
    world.double.forbid("list", "pods");
    let pods = world.pods();
    until("list", || trouble(&pods).contains("add the verb list on pods to mtlsd's ClusterRole")).await;
    world.double.forbid("watch", "pods");
    world.double.allow("list", "pods");
    until("watch", || trouble(&pods).contains("add the verb watch on pods to mtlsd's ClusterRole")).await;
    assert!(has(&pods, "a"));
    world.double.allow("watch", "pods");
    until("current", || is_current(&pods)).await;
}

#[tokio::test]
async fn a_server_that_asks_for_time_gets_it() {
    let world = World::new();
    world.put("a");
    world.double.next("list", "pods", 1, Act::Status(429, Some(1)));
    let began = std::time::Instant::now();
    let pods = world.pods();
    until("a", || has(&pods, "a")).await;
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn many_changes_are_told_as_few() {
    let world = World::new();
    let pods = following(&world).await;
    let mut changes = pods.changes();
    let began = std::time::Instant::now();
    let mut told = 0_u128;
    for n in 0..100 {
        world.put(&format!("p{n}"));
    }
    while count(&pods) < 101 || told == 0 {
        assert!(changes.next().await);
        told += 1;
    }
    let most = began.elapsed().as_millis() / MIN_GAP.as_millis() + 2;
    assert!(told <= most, "{told} in {:?}", began.elapsed());
    drop(pods);
    while changes.next().await {}
}

#[tokio::test]
async fn a_copy_that_is_dropped_is_followed_no_more() {
    let world = World::new();
    let pods: Reflector<crate::kube::objects::Pod> =
        Reflector::start(world.client(Timing { ..brisk() }), Scope::default(), None);
    until("a watch", || world.double.watches() == 1).await;
    drop(pods);
    until("none", || world.double.watches() == 0).await;
}
