//! The timeline's counts are those of the log, at every width and as the archive grows.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::Scene;
use crate::support::wait_for;

impl Scene {
    /// The timeline once all of the log is in it.
    fn drawn(&self, query: &str) -> Json {
        let mut drawn = Json::Null;
        wait_for("the log is read", Duration::from_secs(60), || {
            drawn = self.web.get(&format!("/api/timeline?{query}")).json();
            drawn["progress"]["whole"] == true
        });
        drawn
    }
}

/// Inserts, updates, deletes, truncations of all bars.
fn sums(drawn: &Json) -> [u64; 4] {
    let mut sums = [0; 4];
    for bar in drawn["bars"].as_array().unwrap() {
        sums.iter_mut().enumerate().for_each(|(at, sum)| *sum += bar[at + 1].as_u64().unwrap());
    }
    sums
}

#[tokio::test(flavor = "multi_thread")]
async fn every_width_counts_the_same_and_follows_the_watermark() {
    let scene = Scene::open().await;
    for step in 0..30 {
        scene.database.run(&format!("INSERT INTO orders VALUES ({}, 1, 'x')", 100 + step)).await;
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    scene.database.run("CREATE SCHEMA tenant_1; CREATE TABLE tenant_1.things (id int PRIMARY KEY)").await;
    scene.database.run("INSERT INTO tenant_1.things SELECT generate_series(1, 5)").await;
    scene.site().catch_up();
    let expected = [37, 3, 2, 1];
    wait_for("the watermark is followed", Duration::from_secs(60), || sums(&scene.drawn("")) == expected);
    let whole = scene.drawn("");
    let (from, to) = (whole["from"].as_i64().unwrap() - 86_400_000, whole["to"].as_i64().unwrap());
    let mut ways = BTreeMap::new();
    for (from, bars) in
        [(from, 10), (from + 86_300_000, 600), (whole["from"].as_i64().unwrap(), 600), (to - 31_536_000_000, 60)]
    {
        let drawn = scene.drawn(&format!("from={from}&to={to}&bars={bars}"));
        assert_eq!(sums(&drawn), expected, "{drawn}");
        ways.insert(drawn["width"].as_i64().unwrap(), drawn["how"].as_str().unwrap().to_owned());
    }
    assert!(ways.values().any(|how| how == "log") && ways.values().any(|how| how == "rollup"), "{ways:?}");
    assert_eq!(sums(&scene.drawn("table=orders")), [30, 2, 2, 0]);
    assert_eq!(sums(&scene.drawn("table=tenant_1.*")), [5, 0, 0, 0]);
    assert_eq!(sums(&scene.drawn("table=orders&table=colours")), [32, 2, 2, 1]);
    assert_eq!(sums(&scene.drawn("app=nobody")), [0; 4]);
    assert_eq!(sums(&scene.drawn("app=-")), expected, "nobody said which application it was");
    // A tenant's are counted by its rows; tables that do not say whose rows they have are named.
    let drawn = scene.web.get("/api/timeline?tenant=1").json();
    assert_eq!((sums(&drawn), &drawn["how"]), ([30, 1, 1, 0], &json!("rows")), "{drawn}");
    assert_eq!(drawn["left_out"], json!(["public.colours", "public.people", "tenant_1.things"]));
    let events = scene.web.get("/api/events").json();
    let kinds: Vec<&str> =
        events["events"].as_array().unwrap().iter().map(|one| one["kind"].as_str().unwrap()).collect();
    assert!(kinds.contains(&"ddl"), "{events}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_of_transactions_filters_them() {
    let scene = Scene::open().await;
    scene.site().command(["init", "--context"]).run(crate::support::PATIENCE).expect(0);
    scene.database.run("SET application_name = 'cleanup'; DELETE FROM orders WHERE id = 1").await;
    scene.database.run("SET application_name = 'shop'; DELETE FROM orders WHERE id = 2").await;
    scene.site().catch_up();
    wait_for("both are there", Duration::from_secs(60), || sums(&scene.drawn("app=cleanup"))[2] == 1);
    let offered = scene.drawn("app=shop");
    let names: Vec<&str> =
        offered["applications"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"cleanup") && names.contains(&"shop") && names.contains(&""), "{offered}");
    let listed = scene.web.get("/api/transactions?app=cleanup").json();
    assert_eq!(
        (&listed["seen"], &listed["transactions"][0]["application"]),
        (&json!(1), &json!("cleanup")),
        "{listed}"
    );
    assert!(listed["transactions"][0]["statement"].as_str().unwrap().contains("DELETE FROM orders"), "{listed}");
}
