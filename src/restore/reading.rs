//! Values that come as texts, read one by one: their type has changed, or PostgreSQL objects to one of them.
//!
//! A row with a value that cannot be read, or that would not stay what it is, is staged without that value and with the
//! objection to it.

use std::collections::BTreeMap;

use super::columns::LiveColumn;
use super::desired::Desired;
use super::mapping::Mapping;
use super::workspace::Workspace;
use crate::failure::Result;
use crate::model::{Column, RelationVersion, quote_identifier, quote_literal};

/// OID of `jsonb` (`pg_type.dat`): what becomes of a text there is said in other words, and is the same.
const JSONB: u32 = 3802;

/// What rows have besides their columns: what was objected to, the texts, and their hash.
const ADDED: [&str; 3] = ["afterimage_objections", "afterimage_texts", "afterimage_hash"];

/// What is known of texts.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Texts {
    /// They are of the archived column's type.
    Archived,
    /// They were of these types once, by the names of the columns.
    OfTypes(BTreeMap<String, String>),
}

impl Texts {
    fn read_plainly(&self, live: &LiveColumn, archived: &Column) -> bool {
        *self == Texts::Archived && live.reads_as_it_is(archived)
    }
}

impl Desired {
    /// From texts to the live columns' types, row by row where that can fail.
    pub(super) async fn read_texts(
        &mut self,
        workspace: &Workspace<'_>,
        relation: &RelationVersion,
        texts: Texts,
    ) -> Result<()> {
        self.as_text = true;
        self.create_rows(workspace).await?;
        let more = "ADD afterimage_objections jsonb, ADD afterimage_texts text[]";
        workspace.execute(&format!("ALTER TABLE {} {more}", self.rows())).await?;
        let maps =
            workspace.request.maps.iter().filter(|map| map.concerns(&self.name, &self.columns)).collect::<Vec<_>>();
        let mut types = self.types.clone();
        let mut readers = Vec::new();
        let mut values = Vec::new();
        for at in self.all() {
            let (column, Some(live)) = (&self.columns[at], self.live_column(at)) else { continue };
            let archived = &relation.columns[column.position];
            if let Some(map) = maps.iter().find(|map| map.column == column.name) {
                values.push(map.to_sql());
            } else if texts.read_plainly(live, archived) {
                values.push(format!("CAST(r.r{at} AS {})", live.type_sql));
            } else {
                let former = match &texts {
                    Texts::Archived => format_type(workspace, archived.value_type()).await?,
                    Texts::OfTypes(types) => types.get(&column.name).cloned(),
                };
                if let Some(former) = &former {
                    types[at].clone_from(former);
                }
                let differs = texts != Texts::Archived || live.differs_from(archived);
                let judged = live.type_oid != JSONB && differs;
                let sql = reader(&self.reader(at), &live.type_sql, former.filter(|_| judged), judged);
                workspace.execute(&sql).await?;
                values.push(format!("v{at}.read"));
                readers.push(at);
            }
        }
        let plain = |at: usize| {
            let archived = &relation.columns[self.columns[at].position];
            self.live_column(at).is_some_and(|live| texts.read_plainly(live, archived))
        };
        let sql = self.reading_sql(plain, &maps, &values, &readers);
        self.types = types;
        workspace.enter_application_path(&self.name).await?;
        workspace.session.execute(&sql, &[]).await.map_err(|error| match maps.is_empty() {
            true => workspace.judge(error),
            false => Mapping::judge(error),
        })?;
        workspace.leave_application_path().await
    }

    fn reader(&self, at: usize) -> String {
        format!("pg_temp.afterimage_read_{}_{at}", self.index)
    }

    fn reading_sql(
        &self,
        plain: impl Fn(usize) -> bool,
        maps: &[&Mapping],
        values: &[String],
        readers: &[usize],
    ) -> String {
        let targets: Vec<String> = self.all().iter().map(|at| format!("c{at}")).collect();
        let texts: Vec<String> = self.all().iter().map(|at| format!("r.r{at}")).collect();
        let objections: Vec<String> = readers
            .iter()
            .map(|&at| format!("jsonb_build_object({}, v{at}.objection)", quote_literal(&self.columns[at].name)))
            .collect();
        let objections = match objections.is_empty() {
            true => "NULL::jsonb".to_owned(),
            false => format!("NULLIF(jsonb_strip_nulls({}), '{{}}'::jsonb)", objections.join(" || ")),
        };
        let laterals: String =
            readers.iter().map(|&at| format!(" CROSS JOIN LATERAL {}(r.r{at}) AS v{at}", self.reader(at))).collect();
        // What a mapping's expression sees: values in their types where these are the same, texts elsewhere.
        let seen: Vec<String> = self
            .all()
            .iter()
            .filter_map(|&at| {
                let (column, live) = (&self.columns[at], self.live_column(at)?);
                let value = if plain(at) { format!("CAST(r.r{at} AS {})", live.type_sql) } else { format!("r.r{at}") };
                Some(format!("{value} AS {}", quote_identifier(&column.name)))
            })
            .collect();
        let mapped = match maps.is_empty() {
            true => String::new(),
            false => {
                format!(" CROSS JOIN LATERAL (SELECT {}) AS {}", seen.join(", "), quote_identifier(&self.name.table))
            }
        };
        let target = targets.iter().map(String::as_str).chain(ADDED);
        let value = values.iter().map(String::as_str).chain([objections.as_str()]);
        format!(
            "INSERT INTO {} ({}) SELECT {}, ARRAY[{}]::text[], r.afterimage_hash FROM {} AS r{laterals}{mapped}",
            self.rows(),
            target.collect::<Vec<_>>().join(", "),
            value.collect::<Vec<_>>().join(", "),
            texts.join(", "),
            self.raw()
        )
    }
}

/// How SQL spells a type, where there is one with this oid.
async fn format_type(workspace: &Workspace<'_>, (oid, modifier): (u32, i32)) -> Result<Option<String>> {
    let sql = "SELECT format_type(t.oid, $2) FROM pg_type t WHERE t.oid = $1";
    let rows = workspace.query(sql, &[&oid, &modifier]).await?;
    Ok(rows.first().map(|row| row.get(0)))
}

/// A function that reads a text as a value of a type, or says why it cannot. A value that comes back as another text, also
/// when it is taken back into the type that it had, has lost something.
fn reader(name: &str, wanted: &str, former: Option<String>, judged: bool) -> String {
    let declared = former.as_ref().map_or(String::new(), |former| format!(" former {former};"));
    let back = match former {
        Some(_) => "BEGIN former := fit; same := former::text = value; EXCEPTION WHEN OTHERS THEN same := false; END;",
        None => "same := false;",
    };
    let judgement = match judged {
        true => format!("IF fit::text IS DISTINCT FROM value THEN {back} END IF;"),
        false => String::new(),
    };
    let body = format!(
        "DECLARE fit {wanted};{declared} same boolean := true; BEGIN fit := value; {judgement} \
         IF same THEN read := fit; ELSE objection := 'it would become ' || fit::text; END IF; \
         EXCEPTION WHEN OTHERS THEN read := NULL; objection := SQLERRM; END"
    );
    format!(
        "CREATE FUNCTION {name}(value text, OUT read {wanted}, OUT objection text) LANGUAGE plpgsql AS {}",
        quote_literal(&body)
    )
}
