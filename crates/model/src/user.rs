use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// One user of some outside system, as we know it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct User {
    /// The id, which follows from `external_id` and `name`: see [`User::id_of`].
    pub id: Uuid,
    /// The id which the outside system gave.
    pub external_id: Uuid,
    /// Full name.
    pub name: String,
}

impl User {
    /// A user with the id that follows from its other fields.
    pub fn new(external_id: Uuid, name: impl Into<String>) -> Self {
        let name = name.into();
        Self { id: Self::id_of(external_id, &name), external_id, name }
    }

    /// The UUIDv5 of `"{external_id}:{name}"` in the DNS namespace ([RFC 9562, 5.5]), as Python's
    /// `uuid.uuid5(NAMESPACE_DNS, ...)` computes it.
    ///
    /// [RFC 9562, 5.5]: https://www.rfc-editor.org/rfc/rfc9562#section-5.5
    pub fn id_of(external_id: Uuid, name: &str) -> Uuid {
        Uuid::new_v5(&Uuid::NAMESPACE_DNS, format!("{external_id}:{name}").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `python3 -c "import uuid; print(uuid.uuid5(uuid.NAMESPACE_DNS, '00000000-0000-4000-8000-000000000001:Ada Lovelace'))"`
    #[test]
    fn the_id_is_what_python_computes() {
        let external_id = Uuid::parse_str("00000000-0000-4000-8000-000000000001").unwrap();
        let ada = User::new(external_id, "Ada Lovelace");
        assert_eq!(ada.id.to_string(), "870465d3-3309-558b-b1b4-3285d8281783");
    }

    #[test]
    fn another_name_or_another_external_id_is_another_user() {
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert_ne!(User::id_of(a, "Ada"), User::id_of(a, "Bob"));
        assert_ne!(User::id_of(a, "Ada"), User::id_of(b, "Ada"));
    }

    #[test]
    fn json_carries_a_user_unchanged() {
        let ada = User::new(Uuid::from_u128(7), "Ada \u{1F9D7} \"Lovelace\"");
        let text = serde_json::to_string(&ada).unwrap();
        assert_eq!(serde_json::from_str::<User>(&text).unwrap(), ada);
    }
}
