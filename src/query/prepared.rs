//! Statements with parameters: `$1`, `$2`, ….

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::logical_expr::LogicalPlan;
use datafusion::scalar::ScalarValue;

use super::errors::failure_of;
use super::session::{Planned, QueryResult, Session};
use crate::failure::Result;

/// What is known of a statement before it runs.
#[derive(Debug, Clone)]
pub struct Described {
    pub schema: SchemaRef,
    /// The types of its parameters, as far as they follow from where they stand.
    pub parameters: Vec<Option<DataType>>,
}

impl Described {
    /// What a plan would give.
    ///
    /// # Errors
    /// Usage where a parameter would have to be of two types.
    pub fn of(plan: &LogicalPlan) -> Result<Described> {
        let named = plan.get_parameter_types().map_err(failure_of)?;
        let number = |name: &String| name.trim_start_matches('$').parse::<usize>().ok();
        let count = named.keys().filter_map(number).max().unwrap_or(0);
        // Beyond what the protocol can number, nobody can give values.
        let count = count.min(usize::from(u16::MAX));
        let parameters = (1..=count).map(|at| named.get(&format!("${at}")).cloned().flatten()).collect();
        Ok(Described { schema: Arc::clone(plan.schema().inner()), parameters })
    }
}

impl Session {
    /// Says what a statement would give, without running it.
    ///
    /// # Errors
    /// As [`Session::sql`], apart from those of running.
    pub async fn describe(&self, text: &str) -> Result<Described> {
        match self.plan(text).await? {
            Planned::Listing(result) => Ok(Described { schema: result.schema, parameters: Vec::new() }),
            Planned::Query(_, plan) => Described::of(&plan),
        }
    }

    /// As [`Session::sql`], with values in place of `$1`, `$2`, ….
    ///
    /// # Errors
    /// As [`Session::sql`].
    pub async fn sql_with(&self, text: &str, values: Vec<ScalarValue>) -> Result<QueryResult> {
        match self.plan(text).await? {
            Planned::Listing(result) => Ok(result),
            Planned::Query(state, plan) => {
                let plan =
                    if values.is_empty() { *plan } else { plan.with_param_values(values).map_err(failure_of)? };
                super::session::execute(*state, plan).await
            }
        }
    }
}
