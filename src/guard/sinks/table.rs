//! Alerts into a table of the source, such as an application has for them.

use super::Delivery;
use crate::failure::{Failure, Result};
use crate::model::TableName;
use crate::postgres::Source;

pub(super) async fn deliver(source: Option<&Source>, table: &TableName, delivery: &Delivery) -> Result<()> {
    let source = source.ok_or_else(|| Failure::usage("no source is named"))?;
    let session = source.without_waiting().connect("afterimage guard").await?;
    let alert = &delivery.alert;
    let sql = format!(
        "INSERT INTO {} (alert_type, severity, message, metadata) VALUES ($1::text, $2::text, $3::text, $4::text::jsonb)",
        table.to_sql()
    );
    let (severity, metadata) = (alert.severity.as_str(), delivery.json().to_string());
    session.execute(&sql, &[&alert.rule, &severity, &alert.message, &metadata]).await?;
    Ok(())
}
