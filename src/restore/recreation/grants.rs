//! Privileges from access lists (`aclitem`, PostgreSQL manual, 5.8): `grantee=letters/grantor`.

use serde_json::Value as Json;

use crate::model::quote_identifier;

/// A role as SQL names it; everybody is no role.
pub(super) fn role(name: &str) -> String {
    if name.is_empty() || name == "public" { "PUBLIC".to_owned() } else { quote_identifier(name) }
}

/// The grants of a table's access list, or of one column's, to others than the owner.
pub(super) fn grants(table: &str, column: Option<&str>, list: &Json, owner: &str) -> Vec<String> {
    let items = list.as_array().into_iter().flatten().filter_map(Json::as_str);
    items.flat_map(|item| grants_of(table, column, item, owner)).collect()
}

fn grants_of(table: &str, column: Option<&str>, item: &str, owner: &str) -> Vec<String> {
    let Some((grantee, rest)) = item.rsplit_once('=') else { return Vec::new() };
    let letters = rest.split('/').next().unwrap_or_default();
    let quoted = grantee.strip_prefix('"').and_then(|name| name.strip_suffix('"'));
    let grantee = quoted.map_or_else(|| grantee.to_owned(), |name| name.replace("\"\"", "\""));
    if grantee == owner {
        return Vec::new();
    }
    let (mut plain, mut with_option) = (Vec::new(), Vec::new());
    let mut letters = letters.chars().peekable();
    while let Some(letter) = letters.next() {
        let Some(privilege) = privilege(letter) else { continue };
        let privilege = column.map_or(privilege.to_owned(), |column| format!("{privilege} ({column})"));
        match letters.next_if_eq(&'*') {
            Some(_) => with_option.push(privilege),
            None => plain.push(privilege),
        }
    }
    let grant = |privileges: Vec<String>, option: &str| {
        let to = role(&grantee);
        (!privileges.is_empty()).then(|| format!("GRANT {} ON {table} TO {to}{option}", privileges.join(", ")))
    };
    [grant(plain, ""), grant(with_option, " WITH GRANT OPTION")].into_iter().flatten().collect()
}

fn privilege(letter: char) -> Option<&'static str> {
    Some(match letter {
        'r' => "SELECT",
        'a' => "INSERT",
        'w' => "UPDATE",
        'd' => "DELETE",
        'D' => "TRUNCATE",
        'x' => "REFERENCES",
        't' => "TRIGGER",
        'm' => "MAINTAIN",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::grants;

    #[test]
    fn an_access_list_becomes_grants_to_others_than_the_owner() {
        let list = serde_json::json!(["me=arwdDxt/me", "=r/me", "\"O'Neil\"=rw*/me", "clerk=a/me"]);
        let expected = [
            "GRANT SELECT ON t TO PUBLIC",
            "GRANT SELECT ON t TO \"O'Neil\"",
            "GRANT UPDATE ON t TO \"O'Neil\" WITH GRANT OPTION",
            "GRANT INSERT ON t TO \"clerk\"",
        ];
        assert_eq!(grants("t", None, &list, "me"), expected);
        let column = serde_json::json!(["clerk=r/me"]);
        assert_eq!(grants("t", Some("c"), &column, "me"), ["GRANT SELECT (c) ON t TO \"clerk\""]);
        assert!(grants("t", None, &serde_json::Value::Null, "me").is_empty());
    }
}
