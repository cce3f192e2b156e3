//! A list that is much shorter than what is known is not believed at once.

use std::time::Duration;

use super::world::{World, count, has, is_current, until};
use crate::kube::Standing;

#[tokio::test]
async fn an_empty_list_after_an_outage_is_not_believed_until_a_second_one_agrees() {
    let mut world = World::new();
    world.put_many(10);
    let pods = world.pods();
    until("all", || count(&pods) == 10).await;
    world.double.stop();
    world.double.lose("pods");
    world.double.restart();
    until("doubt", || pods.standing() == Standing::Doubted { kept: 10, listed: 0 }).await;
    assert_eq!(count(&pods), 10);
    until("belief", || count(&pods) == 0 && is_current(&pods)).await;
    assert_eq!(world.double.count("list", "pods"), 3);
}

#[tokio::test]
async fn a_short_list_that_the_next_one_does_not_confirm_is_forgotten() {
    let mut world = World::new();
    world.put_many(10);
    let pods = world.pods();
    until("all", || count(&pods) == 10).await;
    world.double.stop();
    world.double.lose("pods");
    world.double.restart();
    until("doubt", || matches!(pods.standing(), Standing::Doubted { .. })).await;
    world.put_many(9);
    until("current", || is_current(&pods)).await;
    assert_eq!(count(&pods), 9);
    assert!(!has(&pods, "p9"));
}

#[tokio::test]
async fn half_of_what_was_known_is_believed_at_once() {
    let mut world = World::new();
    world.put_many(10);
    let pods = world.pods();
    until("all", || count(&pods) == 10).await;
    world.double.stop();
    world.double.lose("pods");
    world.put_many(5);
    world.double.restart();
    until("five", || count(&pods) == 5).await;
    assert_eq!(world.double.count("list", "pods"), 2);
}

#[tokio::test]
async fn what_an_earlier_daemon_knew_is_not_lost_to_an_empty_list_either() {
    let world = World::new();
    world.put_many(10);
    let pods = world.pods();
    until("all", || count(&pods) == 10).await;
    let kept = pods.kept();
    drop(pods);
    world.double.lose("pods");
    let pods = world.pods_remembering(kept);
    assert_eq!(count(&pods), 10);
    until("doubt", || matches!(pods.standing(), Standing::Doubted { .. })).await;
    assert_eq!(count(&pods), 10);
    tokio::time::timeout(Duration::from_secs(5), async { until("belief", || count(&pods) == 0).await })
        .await
        .unwrap();
}
