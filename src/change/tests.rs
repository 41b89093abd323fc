use proptest::prelude::*;

use super::*;

fn term(text: &str) -> Option<(u64, bool)> {
    change_term(text.as_bytes()).map(|change| (change.term, change.given))
}

/// A record with one more field.
fn with(field: &str) -> Option<(u64, bool)> {
    term(&format!(r#"{{"operation":"insert",{field}}}"#))
}

#[test]
fn an_object_with_a_known_operation_is_a_record() {
    for operation in ["insert", "update", "delete", "refresh", "\\u0069nsert"] {
        assert_eq!(term(&format!(r#" {{"operation": "{operation}", "lsn": 1}}"#)), Some((1, false)), "{operation}");
    }
    for text in ["", "{}", "[]", "5", "null", r#""insert""#, r#"{"operation":"Insert"}"#, r#"{"operation":5}"#] {
        assert_eq!(term(text), None, "{text}");
    }
    assert_eq!(term("{\"operation\":\"insert\"}\0"), None);
    assert_eq!(term("{\"operation\":\"insert\"} x"), None);
    assert_eq!(term("\u{feff}{\"operation\":\"insert\"}"), None);
}

#[test]
fn terms_are_cut_and_bounded() {
    let cases = [
        ("0", Some(0)),
        ("-0", Some(0)),
        ("-0.0", Some(0)),
        ("7", Some(7)),
        ("2.7", Some(2)),
        ("1e3", Some(1000)),
        ("18446744073709551615", Some(u64::MAX)),
        ("18446744073709551616", None),
        ("-1", None),
        ("-0.5", None),
        ("\"2\"", None),
        ("true", None),
        ("null", None),
        ("[2]", None),
    ];
    for (text, value) in cases {
        assert_eq!(with(&format!(r#""term":{text}"#)), Some((value.unwrap_or(1), value.is_some())), "{text}");
    }
    for text in ["1e999", "NaN", "01", "+1", "1.", "Infinity"] {
        assert_eq!(with(&format!(r#""x":{text}"#)), None, "{text}");
    }
    assert_eq!(with(&format!(r#""x":{}"#, "9".repeat(400))), None);
}

#[test]
fn the_last_of_equal_keys_counts() {
    assert_eq!(with(r#""term":2,"term":3"#), Some((3, true)));
    assert_eq!(with(r#""term":2,"term":null"#), Some((1, false)));
    assert_eq!(with(r#""operation":"no""#), None);
    assert_eq!(with(r#""entity_bytes_hex":"x","entity_bytes_hex":"00""#), Some((1, false)));
    assert_eq!(with(r#""refresh_records_hex":5,"refresh_records_hex":[]"#), Some((1, false)));
}

#[test]
fn hex_is_checked() {
    for good in [r#""00FFab""#, r#""""#, "null", "12", "{}"] {
        assert_eq!(with(&format!(r#""entity_bytes_hex":{good}"#)), Some((1, false)), "{good}");
    }
    for bad in [r#""abc""#, r#""zz""#, r#""0 0 ""#, r#""é""#] {
        assert_eq!(with(&format!(r#""entity_bytes_hex":{bad}"#)), None, "{bad}");
    }
    for good in [r#"["00","FF"]"#, "[]", "null"] {
        assert_eq!(with(&format!(r#""refresh_records_hex":{good}"#)), Some((1, false)), "{good}");
    }
    for bad in [r#""00""#, "{}", r#"["00",1]"#, r#"["0"]"#, r#"[["00"]]"#, "0"] {
        assert_eq!(with(&format!(r#""refresh_records_hex":{bad}"#)), None, "{bad}");
    }
}

#[test]
fn strings_are_checked_wherever_they_stand() {
    for bad in [r#""\ud800""#, r#""\udc00""#, r#""\ud83dx""#, "\"\u{1}\"", r#""\x""#] {
        assert_eq!(with(&format!(r#""x":{bad}"#)), None, "{bad}");
        assert_eq!(with(&format!(r#""x":[{{"y":{bad}}}]"#)), None, "{bad}");
        assert_eq!(with(&format!("{bad}:1")), None, "{bad}");
    }
    assert_eq!(with(r#""x":"\ud83d\ude00""#), Some((1, false)));
    assert!(change_term(b"{\"operation\":\"insert\",\"x\":\"\xff\"}").is_none());
}

#[test]
fn nesting_ends_at_128() {
    let nested = |levels: usize| with(&format!(r#""x":{}{}"#, "[".repeat(levels), "]".repeat(levels)));
    assert_eq!(nested(127), Some((1, false)));
    assert_eq!(nested(128), None);
    let nested = |levels: usize| with(&format!(r#""x":{}1{}"#, r#"{"a":"#.repeat(levels), "}".repeat(levels)));
    assert_eq!(nested(127), Some((1, false)));
    assert_eq!(nested(128), None);
    assert_eq!(term(&"[".repeat(1 << 20)), None);
    assert_eq!(with(&format!(r#""x":{}"#, "[".repeat(1 << 20))), None);
}

#[test]
fn the_term_is_seen_at_the_end_of_what_is_written_today() {
    for text in [r#"{"a":{"b":[]},"term":7,"timestamp":5}"#, r#"{"a":"term","term":7}"#, r#"{"term":1,"term":7}"#] {
        assert!(ends_with_term(text.as_bytes(), 7), "{text}");
        assert!(!ends_with_term(text.as_bytes(), 1), "{text}");
    }
}

#[test]
fn a_term_that_may_not_be_the_records_own_is_not_taken_for_it() {
    let traps = [
        r#"{"operation":"insert","a":{"b":1,"term":7}}"#,
        r#"{"operation":"insert","a":[{"b":1,"term":7}]}"#,
        r#"{"operation":"insert","a":{"b":1,"term":7},"c":2}"#,
        r#"{"operation":"insert","a":1,"term":7.0e1}"#,
        r#"{"operation":"insert","a":1,"term":78}"#,
        r#"{"operation":"insert","a":1,"term":7 , "term" : 8}"#,
        r#"{"operation":"insert","a":1,"term":7,"\u0074erm":8}"#,
        r#"{"operation":"insert","a":1,"x\"term":7}"#,
        r#"{"operation":"insert","a":1,"term":7} "#,
        r#"{"operation":"insert","a":"term"}"#,
        r#"{"operation":"insert","a":1,"term":99999999999999999999}"#,
    ];
    for text in traps {
        assert!(!ends_with_term(text.as_bytes(), 7), "{text}");
    }
}

fn member() -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec![r#""term""#, r#""\u0074erm""#, r#""x\"term""#, r#""a""#, r#""operation""#]);
    let value = prop::sample::select(vec!["7", "7.0", "78", r#""term""#, r#"{"b":1,"term":7}"#, r#""insert""#, "[]"]);
    let space = prop::sample::select(vec!["", "", " "]);
    (key, value, space).prop_map(|(key, value, space)| format!("{space}{key}{space}:{value}"))
}

proptest! {
    #[test]
    fn the_end_never_shows_another_term(members in prop::collection::vec(member(), 0..5), space in "[ ]?") {
        let text = format!(r#"{{"operation":"insert",{}}}{space}"#, members.join(","));
        let term = change_term(text.as_bytes()).map(|change| change.term);
        if ends_with_term(text.as_bytes(), 7) {
            prop_assert!(term.is_none_or(|term| term == 7), "{}", text);
        }
    }
}
