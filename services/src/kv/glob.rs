//! Redis' glob patterns: `*`, `?`, `[a-z]`, `[^a]`, backslash.
//!
//! Always true: a match takes at most pattern times text steps. (Backtracking to the last star only
//! is enough for globs; matching each star recursively is exponential.)

/// Does `text` match `pattern`?
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // After the last star: where the pattern goes on, and the text position tried for it.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            retry = Some((p, t));
            continue;
        }
        if t == text.len() {
            if p == pattern.len() {
                return true;
            }
        } else if p < pattern.len()
            && let Some(size) = matches_one(&pattern[p..], text[t])
        {
            p += size;
            t += 1;
            continue;
        }
        match retry {
            Some((after, from)) if from < text.len() => {
                retry = Some((after, from + 1));
                p = after;
                t = from + 1;
            }
            _ => return false,
        }
    }
}

/// The size of the first element of `pattern`, when it matches `byte`.
fn matches_one(pattern: &[u8], byte: u8) -> Option<usize> {
    match *pattern {
        [b'?', ..] => Some(1),
        [b'[', ref class @ ..] => {
            let (hit, size) = matches_class(class, byte);
            hit.then_some(1 + size)
        }
        [b'\\', literal, ..] => (literal == byte).then_some(2),
        [literal, ..] => (literal == byte).then_some(1),
        [] => None,
    }
}

/// Is `byte` in the class whose text starts after the bracket, and how long is that text? A class
/// that is not closed ends with the pattern.
fn matches_class(class: &[u8], byte: u8) -> (bool, usize) {
    let negated = class.first() == Some(&b'^');
    let mut at = usize::from(negated);
    let mut hit = false;
    loop {
        match class[at..] {
            [] => break,
            [b']', ..] => {
                at += 1;
                break;
            }
            [b'\\', literal, ..] => {
                hit |= literal == byte;
                at += 2;
            }
            [low, b'-', high, ..] => {
                let (low, high) = (low.min(high), low.max(high));
                hit |= (low..=high).contains(&byte);
                at += 3;
            }
            [literal, ..] => {
                hit |= literal == byte;
                at += 1;
            }
        }
    }
    (hit != negated, at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn globs_match_as_in_redis() {
        let yes: &[(&str, &str)] = &[
            ("*", ""),
            ("", ""),
            ("*", "abc"),
            ("a*c", "abbbc"),
            ("a*b*c", "axxbxxbxc"),
            ("h?llo", "hello"),
            ("h[ae]llo", "hallo"),
            ("h[^e]llo", "hallo"),
            ("h[a-c]llo", "hbllo"),
            ("h[c-a]llo", "hbllo"),
            ("\\*", "*"),
            ("a\\?", "a?"),
            ("[\\]]", "]"),
            ("**a**", "bab"),
            ("[abc", "b"),
        ];
        let no: &[(&str, &str)] = &[
            ("", "a"),
            ("a", ""),
            ("a*c", "abbb"),
            ("h?llo", "hllo"),
            ("h[^e]llo", "hello"),
            ("\\*", "a"),
            ("[]", "a"),
            ("?", ""),
            ("[a", ""),
        ];
        for (pattern, text) in yes {
            assert!(matches(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
        for (pattern, text) in no {
            assert!(!matches(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = b"a*".repeat(200);
        let text = vec![b'a'; 10_000];
        assert!(!matches(&[&pattern[..], b"b"].concat(), &text));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_pattern(
            pattern in proptest::collection::vec(prop_oneof![
                Just(b'['), Just(b']'), Just(b'-'), Just(b'^'), Just(b'\\'), Just(b'*'), any::<u8>()
            ], 0..20),
            text in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            matches(&pattern, &text);
        }

        #[test]
        fn a_text_matches_itself_escaped(text in proptest::collection::vec(any::<u8>(), 0..20)) {
            let pattern: Vec<u8> = text.iter().flat_map(|&byte| [b'\\', byte]).collect();
            prop_assert!(matches(&pattern, &text));
        }
    }
}
