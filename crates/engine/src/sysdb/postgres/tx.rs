//! Statements of a program in a transaction step.

use std::error::Error as StdError;
use std::fmt::Write as _;
use std::sync::Arc;

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use postgres::error::SqlState;
use postgres::types::private::BytesMut;
use postgres::types::{Format, FromSql, IsNull, Kind, ToSql, Type};
use postgres::{Column, Transaction};
use uuid::Uuid;

use super::connection::in_words;
use crate::pure::sql::{Row, SqlError, Value, Violation};

pub(crate) fn execute(
    transaction: &mut Transaction<'_>,
    sql: &str,
    values: &[Value],
) -> Result<u64, SqlError> {
    let bound: Vec<Bound<'_>> = values.iter().map(Bound).collect();
    Ok(transaction.execute_typed(sql, &typed(&bound))?)
}

pub(crate) fn query(
    transaction: &mut Transaction<'_>,
    sql: &str,
    values: &[Value],
) -> Result<Vec<Row>, SqlError> {
    let bound: Vec<Bound<'_>> = values.iter().map(Bound).collect();
    let rows = transaction.query_typed(sql, &typed(&bound))?;
    let Some(first) = rows.first() else { return Ok(Vec::new()) };
    let columns: Arc<[String]> = first.columns().iter().map(|column| column.name().to_owned()).collect();
    let read = |row: &postgres::Row| {
        let values = row.columns().iter().enumerate().map(|(place, column)| value(row, place, column));
        Ok(Row::new(&columns, values.collect::<Result<_, _>>()?))
    };
    rows.iter().map(read).collect()
}

/// Of no type, as texts: the server takes each as it takes a quoted literal in that place. So nothing needs to be
/// prepared first, and one round trip is enough.
fn typed<'b>(bound: &'b [Bound<'_>]) -> Vec<(&'b (dyn ToSql + Sync), Type)> {
    bound.iter().map(|value| (value as &(dyn ToSql + Sync), Type::UNKNOWN)).collect()
}

#[derive(Debug)]
struct Bound<'v>(&'v Value);

impl ToSql for Bound<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        let text = match self.0 {
            Value::Null => return Ok(IsNull::Yes),
            Value::Bool(value) => value.to_string(),
            Value::Integer(number) => number.to_string(),
            Value::Real(number) if number.is_infinite() => {
                if *number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned()
            }
            Value::Real(number) => format!("{number:?}"),
            Value::Text(text) => {
                if text.contains('\0') {
                    return Err("a text with NUL cannot be stored by PostgreSQL".into());
                }
                out.extend_from_slice(text.as_bytes());
                return Ok(IsNull::No);
            }
            Value::Bytes(bytes) => {
                let hex = bytes.iter().map(|byte| format!("{byte:02x}"));
                format!("\\x{}", hex.collect::<String>())
            }
            Value::Uuid(uuid) => uuid.to_string(),
            Value::Time(time) => Value::time_as_text(time),
            Value::Json(json) => json.to_string(),
        };
        out.extend_from_slice(text.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn to_sql_checked(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        self.to_sql(ty, out)
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }
}

fn value(row: &postgres::Row, place: usize, column: &Column) -> Result<Value, SqlError> {
    let read: Option<Value> = row.try_get(place).map_err(|error| {
        let reason = format!(
            "a value of type {} cannot be read here ({error}); cast it, for example to text",
            column.type_()
        );
        SqlError::value(format!("column `{}`", column.name()), reason)
    })?;
    Ok(read.unwrap_or(Value::Null))
}

impl<'r> FromSql<'r> for Value {
    fn from_sql(ty: &Type, raw: &'r [u8]) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        Ok(match *ty {
            Type::BOOL => Self::Bool(bool::from_sql(ty, raw)?),
            Type::INT2 => Self::Integer(i16::from_sql(ty, raw)?.into()),
            Type::INT4 => Self::Integer(i32::from_sql(ty, raw)?.into()),
            Type::INT8 => Self::Integer(i64::from_sql(ty, raw)?),
            Type::OID => Self::Integer(u32::from_sql(ty, raw)?.into()),
            Type::FLOAT4 => Self::Real(f32::from_sql(ty, raw)?.into()),
            Type::FLOAT8 => Self::Real(f64::from_sql(ty, raw)?),
            Type::NUMERIC => {
                let text = numeric(raw).ok_or("its digits make no sense")?;
                text.parse().map(Self::Integer).unwrap_or(Self::Text(text))
            }
            Type::BYTEA => Self::Bytes(raw.to_vec()),
            Type::UUID => Self::Uuid(Uuid::from_sql(ty, raw)?),
            Type::TIMESTAMPTZ => Self::Time(DateTime::<Utc>::from_sql(ty, raw)?),
            Type::TIMESTAMP => Self::Time(NaiveDateTime::from_sql(ty, raw)?.and_utc()),
            Type::DATE => Self::Text(NaiveDate::from_sql(ty, raw)?.to_string()),
            Type::JSON => Self::Json(serde_json::from_slice(raw)?),
            Type::JSONB => match raw.split_first() {
                Some((1, json)) => Self::Json(serde_json::from_slice(json)?),
                _ => return Err("its version is not known".into()),
            },
            _ => Self::Text(str::from_utf8(raw)?.to_owned()),
        })
    }

    fn accepts(ty: &Type) -> bool {
        const TYPES: [Type; 20] = [
            Type::BOOL,
            Type::INT2,
            Type::INT4,
            Type::INT8,
            Type::OID,
            Type::FLOAT4,
            Type::FLOAT8,
            Type::NUMERIC,
            Type::TEXT,
            Type::VARCHAR,
            Type::BPCHAR,
            Type::NAME,
            Type::UNKNOWN,
            Type::BYTEA,
            Type::UUID,
            Type::TIMESTAMPTZ,
            Type::TIMESTAMP,
            Type::DATE,
            Type::JSON,
            Type::JSONB,
        ];
        TYPES.contains(ty) || matches!(ty.kind(), Kind::Enum(_)) || ty.name() == "citext"
    }
}

/// The decimal digits of a `numeric` in its binary form: counts of digits and weight, sign, scale, then digits of base
/// 10,000.
fn numeric(raw: &[u8]) -> Option<String> {
    const NEGATIVE: u16 = 0x4000;
    const NAN: u16 = 0xC000;
    const INFINITY: u16 = 0xD000;
    const NEGATIVE_INFINITY: u16 = 0xF000;
    let word = |place: usize| Some(u16::from_be_bytes(raw.get(place * 2..place * 2 + 2)?.try_into().ok()?));
    let (count, sign, scale) = (usize::from(word(0)?), word(2)?, usize::from(word(3)?));
    let weight = i32::from(i16::from_be_bytes(word(1)?.to_be_bytes()));
    match sign {
        NAN => return Some("NaN".to_owned()),
        INFINITY => return Some("Infinity".to_owned()),
        NEGATIVE_INFINITY => return Some("-Infinity".to_owned()),
        _ => {}
    }
    // The digit of this weight, whether it is written or one of the zeros around.
    let digit = |at: i32| {
        let place = usize::try_from(weight - at).ok().filter(|place| *place < count);
        place.map_or(Some(0), |place| word(4 + place))
    };
    let mut text = String::new();
    for at in (0..=weight.max(0)).rev() {
        write!(text, "{:04}", digit(at)?).ok()?;
    }
    let whole = text.trim_start_matches('0');
    let mut text = if whole.is_empty() { "0".to_owned() } else { whole.to_owned() };
    if scale > 0 {
        let mut fraction = String::new();
        for at in 1..=i32::try_from(scale.div_ceil(4)).ok()? {
            write!(fraction, "{:04}", digit(-at)?).ok()?;
        }
        text = format!("{text}.{}", fraction.get(..scale)?);
    }
    Some(if sign == NEGATIVE { format!("-{text}") } else { text })
}

impl From<postgres::Error> for SqlError {
    fn from(error: postgres::Error) -> Self {
        let violation = error.code().and_then(|code| match *code {
            SqlState::UNIQUE_VIOLATION | SqlState::EXCLUSION_VIOLATION => Some(Violation::Unique),
            SqlState::FOREIGN_KEY_VIOLATION => Some(Violation::ForeignKey),
            SqlState::NOT_NULL_VIOLATION => Some(Violation::NotNull),
            SqlState::CHECK_VIOLATION => Some(Violation::Check),
            _ => None,
        });
        Self::Database { violation, message: in_words(&error), source: error.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digits_of_a_numeric_are_read() {
        let of =
            |words: &[u16]| numeric(&words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>());
        assert_eq!(of(&[0, 0, 0, 0]).unwrap(), "0");
        assert_eq!(of(&[1, 0, 0, 0, 42]).unwrap(), "42");
        assert_eq!(of(&[1, 1, 0x4000, 0, 1]).unwrap(), "-10000");
        assert_eq!(of(&[2, 0, 0, 2, 12, 3400]).unwrap(), "12.34");
        assert_eq!(of(&[1, 0xFFFF, 0, 4, 5]).unwrap(), "0.0005");
        assert_eq!(of(&[0, 0, 0xC000, 0]).unwrap(), "NaN");
        assert_eq!(of(&[2, 1, 0, 0, 1]), None, "cut off");
    }
}
