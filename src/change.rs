//! Is this payload a `ChangeRecord`, and of which term; no more.
//!
//! The payload is parsed as JSON in full, strictly, and nothing is kept of it but what decides. `changes.py` decodes
//! by the same rules.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Objects and lists within each other; one more is an error.
const MAX_NESTING: u32 = 128;
/// The term of a record that does not say its own.
pub const DEFAULT_TERM: u64 = 1;
/// How the key of the term is written, but for escapes.
const KEY: &[u8] = b"\"term\"";
/// The first number that is no unsigned 64-bit integer.
const PAST_U64: f64 = 18_446_744_073_709_551_616.0;

/// The term of a `ChangeRecord`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangeTerm {
    /// Its term.
    pub term: u64,
    /// Whether it says so itself.
    pub given: bool,
}

/// The term of `payload`, if it is a `ChangeRecord`.
pub fn change_term(payload: &[u8]) -> Option<ChangeTerm> {
    let first = payload.iter().find(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r'))?;
    if *first != b'{' {
        return None;
    }
    let mut json = serde_json::Deserializer::from_slice(payload);
    // Its own limit counts otherwise than ours.
    json.disable_recursion_limit();
    let record = json.deserialize_any(Record).ok()?;
    json.end().ok()?;
    let usable = record.operation && record.entity_bytes && record.refresh_records;
    usable.then(|| ChangeTerm { term: record.term.unwrap_or(DEFAULT_TERM), given: record.term.is_some() })
}

/// The term of a frame that has none of its own.
pub fn term_of_payload(payload: &[u8]) -> u64 {
    change_term(payload).map_or(DEFAULT_TERM, |change| change.term)
}

/// Whether the end of `payload` alone shows that it is no `ChangeRecord` of another term than this. False shows nothing.
///
/// A comma before a quote stands between members, and where no bracket lies behind it but the one that ends the payload,
/// between those of the outermost object. Without a backslash no later key is this one in other letters.
pub fn ends_with_term(payload: &[u8], term: u64) -> bool {
    let Some(members) = payload.strip_suffix(b"}") else { return false };
    let Some(key) = memchr::memmem::rfind(members, KEY) else { return false };
    let (before, rest) = (&members[..key], &members[key + KEY.len()..]);
    let Some(rest) = rest.strip_prefix(b":").filter(|_| before.ends_with(b",")) else { return false };
    let len = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
    let (digits, behind) = rest.split_at(len);
    let number = str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
    number == Some(term)
        && behind.first().is_none_or(|byte| *byte == b',')
        && !behind.iter().any(|byte| matches!(byte, b'{' | b'}' | b'[' | b']' | b'\\'))
}

/// What decides, of the object read so far. Of a repeated key the last value counts.
struct Fields {
    term: Option<u64>,
    operation: bool,
    entity_bytes: bool,
    refresh_records: bool,
}

/// What is asked of a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Want {
    Nothing,
    Operation,
    Hex,
    HexList,
}

/// What a value is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    Null,
    /// A number, if it is one that counts: cut to an integer, and within bounds.
    Number(Option<u64>),
    /// A string, and whether it is as wanted.
    Text(bool),
    /// A list, and whether it is as wanted.
    List(bool),
    Other,
}

/// The top of the payload, which must be an object.
struct Record;

impl<'de> Visitor<'de> for Record {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut fields = Fields { term: None, operation: false, entity_bytes: true, refresh_records: true };
        while let Some(key) = map.next_key_seed(Key)? {
            let want = match key {
                Name::Operation => Want::Operation,
                Name::EntityBytes => Want::Hex,
                Name::RefreshRecords => Want::HexList,
                Name::Term | Name::Other => Want::Nothing,
            };
            let seen = map.next_value_seed(Value { depth: 1, want })?;
            match key {
                Name::Term => fields.term = if let Seen::Number(term) = seen { term } else { None },
                Name::Operation => fields.operation = seen == Seen::Text(true),
                Name::EntityBytes => fields.entity_bytes = seen != Seen::Text(false),
                Name::RefreshRecords => fields.refresh_records = matches!(seen, Seen::Null | Seen::List(true)),
                Name::Other => {}
            }
        }
        Ok(fields)
    }
}

enum Name {
    Term,
    Operation,
    EntityBytes,
    RefreshRecords,
    Other,
}

/// A key of the record. It is read as text, so that it is checked like any other string.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Name;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Name, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for Key {
    type Value = Name;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Name, E> {
        Ok(match key {
            "term" => Name::Term,
            "operation" => Name::Operation,
            "entity_bytes_hex" => Name::EntityBytes,
            "refresh_records_hex" => Name::RefreshRecords,
            _ => Name::Other,
        })
    }
}

/// Any value, inside `depth` objects and lists.
#[derive(Clone, Copy)]
struct Value {
    depth: u32,
    want: Want,
}

impl Value {
    /// A value inside this one.
    fn inner<E: Error>(self) -> Result<Self, E> {
        if self.depth == MAX_NESTING {
            return Err(E::custom("nested too deep"));
        }
        let want = if self.want == Want::HexList { Want::Hex } else { Want::Nothing };
        Ok(Self { depth: self.depth + 1, want })
    }
}

impl<'de> DeserializeSeed<'de> for Value {
    type Value = Seen;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Seen, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value {
    type Value = Seen;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Seen, E> {
        Ok(Seen::Null)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Seen, E> {
        Ok(Seen::Other)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Seen, E> {
        Ok(Seen::Number(Some(number)))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Seen, E> {
        Ok(Seen::Number(u64::try_from(number).ok()))
    }

    #[allow(clippy::cast_sign_loss, reason = "only numbers from 0 on are cast")]
    fn visit_f64<E: Error>(self, number: f64) -> Result<Seen, E> {
        Ok(Seen::Number((0.0..PAST_U64).contains(&number).then_some(number as u64)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Seen, E> {
        Ok(Seen::Text(match self.want {
            Want::Operation => matches!(text, "insert" | "update" | "delete" | "refresh"),
            Want::Hex => text.len().is_multiple_of(2) && text.bytes().all(|byte| byte.is_ascii_hexdigit()),
            Want::Nothing | Want::HexList => true,
        }))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Seen, A::Error> {
        let inner = self.inner()?;
        let mut good = true;
        while let Some(seen) = list.next_element_seed(inner)? {
            good &= seen == Seen::Text(true);
        }
        Ok(Seen::List(good))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Seen, A::Error> {
        let inner = Value { want: Want::Nothing, ..self.inner()? };
        while map.next_key_seed(Key)?.is_some() {
            map.next_value_seed(inner)?;
        }
        Ok(Seen::Other)
    }
}

#[cfg(test)]
mod tests;
