use crate::archive::ArchiveIdentity;
use crate::failure::Category;
use crate::history::{Cut, key_fields};
use crate::model::{Lsn, Point, TableName, TablePattern};

use super::catalog::{KeyColumn, LiveTable};
use super::columns::LiveColumn;
use super::desired::{Desired, Matching, Shared};
use super::difference::Difference;
use super::mapping::Mapping;
use super::order::{groups, parents_first};
use super::perform::{delete_sql, insert_sql, update_sql};
use super::recreation::table::Recipe;
use super::sequences::move_sql;
use super::workspace::Mode;
use super::{
    Change, Class, Counts, FORMAT, Note, Plan, PlanOptions, PlanPoint, RestoreRequest, Sample, TablePlan, verify,
};

fn names(names: &[&str]) -> Vec<TableName> {
    names.iter().map(|name| TableName::new("public", *name)).collect()
}

fn order(tables: &[&str], edges: &[(usize, usize)]) -> Vec<String> {
    let names = names(tables);
    parents_first(&names, edges).into_iter().map(|at| names[at].table.clone()).collect()
}

#[test]
fn parents_come_before_children_and_names_decide_otherwise() {
    // lines -> orders -> customers; a refers to nothing.
    assert_eq!(order(&["lines", "orders", "customers", "a"], &[(1, 0), (2, 1)]), ["a", "customers", "orders", "lines"]);
    assert_eq!(order(&["b", "a"], &[]), ["a", "b"]);
}

#[test]
fn circles_lose_no_table() {
    assert_eq!(order(&["a", "b", "c"], &[(0, 1), (1, 0), (1, 2)]), ["a", "b", "c"]);
    assert_eq!(order(&["tree"], &[(0, 0)]), ["tree"]);
}

#[test]
fn what_hangs_on_a_circle_comes_after_it_whatever_it_is_called() {
    // a -> z <-> y -> x
    assert_eq!(order(&["a", "z", "y", "x"], &[(1, 0), (1, 2), (2, 1), (3, 2)]), ["x", "y", "z", "a"]);
    assert_eq!(groups(4, &[(1, 2), (2, 1), (0, 1), (2, 3)]), [vec![0], vec![1, 2], vec![3]]);
}

#[test]
fn keys_of_the_history_are_read_back() {
    let mut key = vec![1, 0, 0, 0, 2, b'a', b'b'];
    key.extend([0; 5]);
    key.extend([1, 0, 0, 0, 0]);
    assert_eq!(key_fields(&key), [Some(&b"ab"[..]), None, Some(&b""[..])]);
    assert_eq!(key_fields(&key[..6]), [Some(&b"a"[..])], "a short key must not panic");
    assert!(key_fields(&[]).is_empty());
}

fn column(name: &str) -> LiveColumn {
    LiveColumn { name: name.into(), ..LiveColumn::default() }
}

fn difference(matching: Matching, everything: bool) -> Difference {
    let columns: Vec<Shared> = vec![
        Shared::for_tests("id", 0, false),
        Shared::for_tests("Na\"me", 1, false),
        Shared::for_tests("no", 2, true),
    ];
    let live = LiveTable {
        oid: 1,
        columns: vec![column("id"), column("Na\"me"), column("no"), column("new")],
        keys: vec![vec![KeyColumn { name: "id".into(), equals: "OPERATOR(\"pg_catalog\".=)".into() }]],
        ..LiveTable::default()
    };
    let key_columns = if matching == Matching::WholeRow { vec![0, 1, 2] } else { vec![0] };
    Difference::for_tests(Desired {
        index: 3,
        name: TableName::new("s", "T"),
        live,
        columns,
        matching,
        everything,
        key_columns,
        dropped: Vec::new(),
        added: vec!["new".into()],
        generated: Vec::new(),
        as_text: false,
        types: Vec::new(),
        expects: false,
        sought: 0,
        keys_of_rows: false,
    })
}

fn by_key() -> Difference {
    difference(Matching::Key(vec![(0, "OPERATOR(\"pg_catalog\".=)".into())]), false)
}

#[test]
fn only_rows_under_touched_keys_are_read_and_only_changing_locks_them() {
    let looked = by_key().live_sql(Mode::Look);
    assert!(
        looked.ends_with(
            "FROM ONLY \"s\".\"T\" AS l WHERE EXISTS (SELECT FROM pg_temp.afterimage_keys_3 AS k WHERE \
             l.\"id\" OPERATOR(\"pg_catalog\".=) k.k0)"
        ),
        "{looked}"
    );
    assert!(looked.contains("ROW(l.\"new\")::text AS afterimage_rest"), "{looked}");
    assert!(by_key().live_sql(Mode::Change).ends_with(" FOR UPDATE OF l"));
    let whole = difference(Matching::WholeRow, true).live_sql(Mode::Look);
    assert!(!whole.contains("WHERE"), "{whole}");
}

#[test]
fn rows_without_a_key_are_numbered_among_their_equals() {
    let sql = difference(Matching::WholeRow, false).difference_sql(&[]);
    assert!(sql.contains("row_number() OVER (PARTITION BY ROW(s.c0, s.c1, s.c2)::text ORDER BY s.ctid)"), "{sql}");
    assert!(sql.contains("t.row_text = l.row_text AND t.copy = l.copy"), "{sql}");
}

#[test]
fn only_the_wanted_classes_are_kept() {
    assert!(!by_key().difference_sql(&[]).contains(" IN ("));
    let sql = by_key().difference_sql(&[Class::Deleted, Class::Inserted]);
    assert!(sql.ends_with("AND d.class IN ('deleted', 'inserted')"), "{sql}");
}

#[test]
fn what_no_update_can_set_is_inserted_but_neither_updated_nor_compared() {
    let table = by_key();
    assert!(update_sql(&table).contains("SET \"id\" = t.c0, \"Na\"\"me\" = t.c1 FROM"), "{}", update_sql(&table));
    assert!(
        insert_sql(&table).contains("(\"id\", \"Na\"\"me\", \"no\") OVERRIDING SYSTEM VALUE SELECT t.c0, t.c1, t.c2")
    );
    assert!(delete_sql(&table).contains("x.ctid = o.afterimage_live AND o.afterimage_class = 'inserted'"));
    assert_eq!(table.compared(), [0, 1]);
    let verified = verify::wrong_by_key(&table, &[(0, "=".into())]);
    let updated = "WHEN 'updated' THEN (NOT pg_catalog.record_image_eq(ROW(t.c0, t.c1), ROW(x.\"id\", x.\"Na\"\"me\"))";
    assert!(verified.contains(updated), "{verified}");
    let inserted =
        "ELSE (NOT pg_catalog.record_image_eq(ROW(t.c0, t.c1, t.c2), ROW(x.\"id\", x.\"Na\"\"me\", x.\"no\"))";
    assert!(verified.contains(inserted), "{verified}");
}

#[test]
fn sequences_only_move_the_way_they_count() {
    let sequence = TableName::new("s", "it's");
    let up = move_sql(&by_key(), 0, &sequence, true);
    assert!(up.contains("setval('\"s\".\"it''s\"'::regclass"), "{up}");
    assert!(up.contains("max(t.c0)") && up.contains("WHERE m.value > s.last_value"), "{up}");
    let down = move_sql(&by_key(), 0, &sequence, false);
    assert!(down.contains("min(t.c0)") && down.contains("WHERE m.value < s.last_value"), "{down}");
}

fn point(text: &str, lsn: u64) -> PlanPoint {
    PlanPoint { point: text.into(), lsn: Lsn(lsn), description: format!("{text} is LSN {}", Lsn(lsn)) }
}

fn sample_plan() -> Plan {
    let table = |name: &str, counts: Counts| TablePlan {
        name: TableName::new("public", name),
        counts,
        skipped: 0,
        digest: format!("{counts:?}"),
        samples: vec![Sample {
            class: Class::Updated,
            key: "id=1".into(),
            changes: vec![Change { column: "note".into(), now: Some("a\u{1b}[2J\nb".into()), then: None }],
        }],
    };
    Plan {
        format: FORMAT,
        system_identifier: "7412345678901234567".into(),
        database: "shop".into(),
        made_at: "2025-10-09T14:30:00Z".parse().unwrap(),
        to: point("mark:it's", 100),
        now: point("now", 200),
        options: PlanOptions {
            tables: vec!["public.*".into()],
            only: vec![Class::Deleted],
            filter: Some("name = 'x'".into()),
            lock_timeout_ms: 5000,
            disable_user_triggers: true,
            ..PlanOptions::default()
        },
        tables: vec![
            table("orders", Counts { insert: 7, update: 2, delete: 1 }),
            table("lines", Counts { insert: 10, ..Counts::default() }),
        ],
        recreated: Vec::new(),
        tenants: Vec::new(),
        undone: Vec::new(),
        conflicts: Vec::new(),
        rejections: Vec::new(),
        notes: vec![Note::skipped(&TableName::new("public", "orders"), "columns that are gone stay gone: x")],
    }
}

#[test]
fn a_saved_plan_is_the_plan() {
    let plan = sample_plan();
    let json = plan.to_json().unwrap();
    assert_eq!(Plan::from_json(json.as_bytes()).unwrap(), plan);
    let request = plan.request().unwrap();
    assert_eq!(request.to.point, Point::Mark("it's".into()));
    assert_eq!((request.to.lsn, request.now.lsn), (Lsn(100), Lsn(200)));
    assert_eq!(request.only, [Class::Deleted]);
}

#[test]
fn what_is_no_plan_is_refused() {
    let category = |json: &str| Plan::from_json(json.as_bytes()).unwrap_err().category();
    assert_eq!(category("{"), Category::Usage);
    assert_eq!(category("{}"), Category::Usage);
    assert_eq!(category(&format!("{{\"format\": {FORMAT}}}")), Category::Usage);
    // An older one's digests are made in another way.
    assert_eq!(category("{\"format\": 2}"), Category::Refused);
    assert_eq!(category("{\"format\": 999}"), Category::Refused);
}

#[test]
fn the_digest_follows_the_rows_and_not_the_order_of_tables() {
    let plan = sample_plan();
    let mut turned = plan.clone();
    turned.tables.reverse();
    turned.now = point("now", 999);
    assert_eq!(plan.digest(), turned.digest());
    assert_eq!(plan.moved_tables(&turned), None);
    let mut moved = plan.clone();
    moved.tables[0].digest.push('x');
    assert_ne!(plan.digest(), moved.digest());
    assert_eq!(plan.moved_tables(&moved).as_deref(), Some("public.orders"));
    let mut more = plan.clone();
    more.tables.pop();
    assert_eq!(plan.moved_tables(&more).as_deref(), Some("public.lines"));
}

fn identity() -> ArchiveIdentity {
    ArchiveIdentity {
        format: 1,
        system_identifier: 7_412_345_678_901_234_567,
        database: "shop".into(),
        start_lsn: Lsn(1),
        created_at: "2025-10-09T14:00:00Z".parse().unwrap(),
        slot: "s".into(),
        publication: "p".into(),
    }
}

#[test]
fn a_plan_is_held_to_its_archive_and_its_request() {
    let plan = sample_plan();
    let request = plan.request().unwrap();
    assert!(plan.require_point(&identity(), &request).is_ok());
    let other = ArchiveIdentity { database: "other".into(), ..identity() };
    assert_eq!(plan.require_point(&other, &request).unwrap_err().category(), Category::Refused);
    let wider = RestoreRequest { filter: None, ..request };
    assert_eq!(plan.require_point(&identity(), &wider).unwrap_err().category(), Category::Refused);
}

#[test]
fn a_plan_is_printed_with_the_command_that_performs_it() {
    let plan = sample_plan();
    assert!(!plan.complete());
    let text = plan.to_string();
    let command =
        r"afterimage restore 'public.*' --to 'mark:it'\''s' --only deleted --where 'name = '\''x'\''' --apply";
    assert!(text.contains(command), "{text}");
    assert!(text.contains("NOT COVERED: public.orders: columns that are gone"), "{text}");
    assert!(text.contains("note: a·[2J·b → NULL"), "control characters must not reach a terminal: {text:?}");
    let total = text.lines().find(|line| line.starts_with("total")).unwrap();
    assert_eq!(total.split_whitespace().collect::<Vec<_>>(), ["total", "17", "2", "1"]);
}

#[test]
fn the_defaults_touch_everything_and_fire_no_triggers() {
    let cut = Cut { point: Point::Now, lsn: Lsn(1), last: None, next: None };
    let request = RestoreRequest::new(vec![TablePattern::parse("a").unwrap()], cut.clone(), cut);
    assert!(request.only.is_empty() && request.filter.is_none() && request.disable_user_triggers);
    assert_eq!(request.lock_timeout.as_secs(), 5);
}

#[test]
fn a_mapping_names_a_column_and_perhaps_a_table() {
    let parsed = |text: &str| Mapping::parse(text).unwrap();
    let map = parsed("smart_code = replace(smart_code, '=', '.')");
    assert_eq!(map.column, "smart_code");
    assert_eq!(map.to_sql(), "(\nreplace(smart_code, '=', '.')\n)");
    let columns = [Shared::for_tests("Code", 0, false)];
    assert_eq!(parsed("\"Code\" = 1").column, "Code");
    let elsewhere = parsed("\"My.Schema\".t.\"Code\" = 1");
    assert!(elsewhere.concerns(&TableName::new("My.Schema", "t"), &columns));
    assert!(!elsewhere.concerns(&TableName::new("public", "t"), &columns));
    assert!(parsed("\"Code\"=1").concerns(&TableName::new("public", "t"), &columns));
    for wrong in ["", "x", "= 1", "x ="] {
        assert_eq!(Mapping::parse(wrong).unwrap_err().category(), Category::Usage, "{wrong}");
    }
}

#[test]
fn what_lies_on_a_circle_is_seen() {
    use super::order::in_circle;
    let edges = [(0, 1), (1, 2), (2, 0), (2, 3)];
    assert!(in_circle(&edges, (0, 1)) && in_circle(&edges, (2, 0)));
    assert!(!in_circle(&edges, (2, 3)));
    assert!(in_circle(&[(0, 0)], (0, 0)));
}

#[test]
fn a_table_is_made_again_as_it_was_described() {
    let definition = serde_json::json!({
        "schema": "s", "name": "Odd Name", "persistence": "p", "owner": "me", "identity": "f",
        "columns": [
            {"name": "id", "type": "integer", "not_null": true, "default": "nextval('s.q'::regclass)", "sequence": "s.q"},
            {"name": "no", "type": "bigint", "identity": "a", "sequence": "s.no_seq", "not_null": true},
            {"name": "twice", "type": "integer", "generated": {"kind": "s", "expression": "(id * 2)"}},
        ],
        "constraints": [
            {"name": "k", "type": "p", "definition": "PRIMARY KEY (id)", "comment": "it's key"},
            {"name": "n", "type": "n", "definition": "NOT NULL id"},
            {"name": "f", "type": "f", "definition": "FOREIGN KEY (id) REFERENCES s.parent(id)"},
        ],
        "indexes": [
            {"name": "k", "definition": "CREATE UNIQUE INDEX k ON s.\"Odd Name\" USING btree (id)", "constraint": "k"},
            {"name": "i", "definition": "CREATE INDEX i ON s.\"Odd Name\" USING btree (no)"},
        ],
    });
    let recipe = Recipe::new(&definition);
    let expected = "CREATE TABLE \"s\".\"Odd Name\" (\"id\" integer DEFAULT nextval('s.q'::regclass) NOT NULL, \
        \"no\" bigint GENERATED ALWAYS AS IDENTITY (SEQUENCE NAME s.no_seq) NOT NULL, \
        \"twice\" integer GENERATED ALWAYS AS ((id * 2)) STORED)";
    assert_eq!(recipe.create(None), expected);
    let keys = recipe.keys_and_indexes();
    assert_eq!(keys.len(), 2, "{keys:?}");
    assert_eq!(keys[0], "ALTER TABLE \"s\".\"Odd Name\" ADD CONSTRAINT \"k\" PRIMARY KEY (id)");
    assert_eq!(recipe.foreign_keys()[0].1, "s.parent");
    assert_eq!(recipe.sequences(), [TableName::new("s", "q")]);
    assert_eq!(recipe.comments(), ["COMMENT ON CONSTRAINT \"k\" ON \"s\".\"Odd Name\" IS 'it''s key'"]);
    let moved = Recipe::within(&definition, "then");
    assert!(
        moved.keys_and_indexes()[1].contains(" ON \"then\".\"Odd Name\" ")
            || moved.keys_and_indexes()[1].contains(" ON then.\"Odd Name\" ")
    );
    assert!(moved.create(None).contains("GENERATED ALWAYS AS IDENTITY NOT NULL"), "{}", moved.create(None));
}
