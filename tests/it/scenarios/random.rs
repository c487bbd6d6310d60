//! Random damage amid random good work: undone, the database is what the good work alone would have made of it.

use std::fmt::Write as _;

use super::{Scene, on_both};
use crate::support::{Database, Release, postgres};

/// A small generator, so that a seed is a story.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn one_of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len() as u64) as usize]
    }
}

/// Tables `t0`, `t1`, …, each with foreign keys to earlier ones or itself.
struct Story {
    dice: Dice,
    tables: usize,
    parents: Vec<usize>,
}

impl Story {
    fn new(seed: u64) -> Story {
        let mut dice = Dice(seed.wrapping_mul(2).wrapping_add(1));
        let tables = 2 + dice.below(3) as usize;
        let parents = (0..tables).map(|table| dice.below(table as u64 + 1) as usize).collect();
        Story { dice, tables, parents }
    }

    fn schema(&mut self) -> String {
        let mut sql = String::new();
        for table in 0..self.tables {
            let action = self.dice.one_of(&["CASCADE", "SET NULL", "NO ACTION"]);
            let deferrable = self.dice.one_of(&["", " DEFERRABLE"]);
            let parent = self.parents[table];
            writeln!(
                sql,
                "CREATE TABLE t{table} (id int PRIMARY KEY, up int REFERENCES t{parent} ON DELETE {action} ON UPDATE CASCADE{deferrable},
                   word text, amount numeric DEFAULT 1.50, made timestamptz DEFAULT '2025-01-01', bits bytea);
                 INSERT INTO t{table} SELECT g, CASE WHEN g > 20 THEN (g / 2) + CASE WHEN g >= 500 THEN 250 ELSE 0 END END,
                   repeat('w', g % 7), g / 3.0, now(), decode(md5(g::text), 'hex')
                   FROM generate_series(1, 60) g;
                 INSERT INTO t{table} SELECT g, NULL, 'good', g, now(), NULL FROM generate_series(500, 540) g;"
            )
            .unwrap();
        }
        sql.replace("now()", "'2025-10-09 14:03:00Z'")
    }

    /// One statement on rows with numbers from `from` on, that refer to none below.
    fn statement(&mut self, from: u64, count: u64) -> String {
        let table = self.dice.below(self.tables as u64);
        let (id, other) = (from + self.dice.below(count), from + self.dice.below(count));
        let parent = self.parents[table as usize];
        match self.dice.below(6) {
            0 => format!("UPDATE t{table} SET word = word || 'x{id}', amount = amount + 1 WHERE id BETWEEN {id} AND {id} + 5 AND id < {from} + {count}"),
            1 => format!("DELETE FROM t{table} WHERE id IN ({id}, {other}) AND NOT EXISTS (SELECT FROM t{table} x WHERE x.up IN ({id}, {other}))"),
            2 => format!(
                "INSERT INTO t{table} SELECT n, (SELECT min(id) FROM t{parent} WHERE id >= {other} AND id < {from} + {count}), 'new', n
                 FROM generate_series({id}, {id} + 3) n WHERE n < {from} + {count} ON CONFLICT DO NOTHING"
            ),
            3 => format!("UPDATE t{table} SET bits = decode(md5('{other}'), 'hex'), up = NULL WHERE id = {id}"),
            4 => format!("UPDATE t{table} SET id = id + 100 WHERE id = {id} AND NOT EXISTS (SELECT FROM t{table} WHERE id = {id} + 100)"),
            _ => format!("UPDATE t{table} SET made = '2025-02-{:02} 00:00Z' WHERE id % 3 = {} AND id BETWEEN {from} AND {from} + {count} - 1", 1 + id % 28, other % 3),
        }
    }

    /// A transaction; a statement that a foreign key forbids does nothing.
    fn transaction(&mut self, from: u64, count: u64) -> String {
        let mut sql = String::new();
        for _ in 0..1 + self.dice.below(6) {
            let statement = self.statement(from, count);
            write!(sql, "DO $do$ BEGIN {statement}; EXCEPTION WHEN foreign_key_violation THEN NULL; END $do$;")
                .unwrap();
        }
        sql
    }

    fn all(&self) -> String {
        let each = (0..self.tables).map(|table| format!("SELECT 't{table}', t::text FROM t{table} t"));
        each.collect::<Vec<_>>().join(" UNION ALL ")
    }
}

async fn tell(release: Release, seed: u64) {
    let mut story = Story::new(seed);
    let schema = story.schema();
    let scene = Scene::begin(release, &schema).await;
    let alone = Database::create(postgres(release)).await;
    alone.run(&schema).await;
    let mut damage = Vec::new();
    for round in 0..4 {
        // Good work is on rows from 500 on, the damage below: nobody else writes a row that it wrote.
        let good = story.transaction(500, 60);
        scene.transaction(&good).await;
        alone.run(&format!("BEGIN; {good} COMMIT")).await;
        if round < 3 {
            let bad = story.transaction(1, 60);
            damage.push(scene.transaction(&bad).await);
        }
    }
    // What changed no row is no transaction of the archive's.
    let known = scene.afterimage(["log", "--json", "--to", "now"]).expect(0).stdout;
    damage.retain(|xid| known.contains(&format!("\"xid\":{xid},")));
    if !damage.is_empty() {
        scene.restore(&["--undo", &damage.join(","), "--apply"]).expect(0);
    }
    let rows = alone.connect().await.query(&story.all(), &[]).await.unwrap();
    let mut expected: Vec<String> =
        rows.iter().map(|row| format!("{}|{}", row.get::<_, String>(0), row.get::<_, String>(1))).collect();
    expected.sort();
    assert_eq!(scene.rows(&story.all()).await, expected, "seed {seed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn soak_undone_damage_leaves_what_good_work_alone_would_have_made() {
    let seeds = std::env::var("AFTERIMAGE_SOAK_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(4);
    on_both(async |release| {
        for seed in 0..seeds {
            tell(release, seed).await;
        }
    })
    .await;
}
