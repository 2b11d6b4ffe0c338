//! What words of a command line come to.

use super::*;

#[test]
fn an_empty_line_asks_for_nothing() {
    let o = parse(b"").unwrap();
    assert_eq!(
        (o.selftest, o.provoke, o.monitor),
        (Selection::None, None, false)
    );
}

#[test]
fn a_domain_stays_unless_it_is_tested_or_told_otherwise() {
    for (line, stays) in [
        ("", true),
        ("log=warn directmap=full", true),
        ("once", false),
        ("selftest=mm", false),
        ("bench", false),
        ("rules=R9", false),
        ("fuzz=1", false),
        ("differential=1", false),
        ("selftest monitor", true),
    ] {
        assert_eq!(parse(line.as_bytes()).unwrap().stays(), stays, "{line}");
    }
    for line in ["once monitor", "monitor once"] {
        let error = parse(line.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("means the opposite of"), "{error}");
    }
}

#[test]
fn every_word_of_the_table_is_understood() {
    for word in WORDS {
        let example = match word.name {
            "log" => "log=warn,mm=trace",
            "provoke" => "provoke=panic",
            "directmap" => "directmap=full",
            "fuzz" => "fuzz=0x2a:1000",
            "differential" => "differential=7",
            "init" => "init=/bin/sh",
            "events" => "events=2level",
            other => other,
        };
        parse(example.as_bytes()).unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn a_program_gets_what_follows() {
    let options = parse(b"log=warn init=/bin/sh -- -c  echo%20hi ").unwrap();
    assert_eq!(options.init, Some("/bin/sh"));
    assert_eq!(options.arguments, b"-c  echo%20hi");
    assert!(!options.stays());
    assert_eq!(parse(b"once").unwrap().arguments, b"");
    let error = parse(b"init=").unwrap_err();
    assert_eq!(error.reason, Reason::NeedsValue);
}

#[test]
fn an_unknown_word_is_named_with_its_place() {
    let e = parse(b"selftest  slef-test").unwrap_err();
    assert_eq!(
        (e.word, e.index, e.reason),
        (&b"slef-test"[..], 2, Reason::Unknown)
    );
    assert!(
        e.to_string()
            .contains("word 2: 'slef-test': unknown word; known are: log=")
    );
}

#[test]
fn random_requests_are_of_any_seeds() {
    let found = |line: &'static str| parse(line.as_bytes()).unwrap().differential.unwrap();
    let seeds = |from, to, steps| Differential { from, to, steps };
    assert_eq!(found("differential=7"), seeds(0, 7, 500));
    assert_eq!(found("differential=0x10..20:9"), seeds(16, 20, 9));
}

#[test]
fn bad_values_are_refused() {
    for (line, reason) in [
        ("log", Reason::NeedsValue),
        ("log=", Reason::NeedsValue),
        ("monitor=1", Reason::TakesNoValue),
        ("no5lvl=1", Reason::TakesNoValue),
        ("provoke=fire", Reason::BadValue),
        ("directmap=some", Reason::BadValue),
        ("selftest=", Reason::NeedsValue),
        ("fuzz=1:", Reason::BadValue),
        ("fuzz=-1", Reason::BadValue),
        ("differential=1:0x100000000", Reason::BadValue),
        ("differential=0", Reason::BadValue),
        ("differential=1:0", Reason::BadValue),
        ("differential=7..7", Reason::BadValue),
        ("differential=7..", Reason::BadValue),
        ("fuzz=1:0", Reason::BadValue),
        ("selftest=mm.map,", Reason::NeedsValue),
        ("bench=,", Reason::NeedsValue),
        ("rules=R1,,R2", Reason::NeedsValue),
    ] {
        let reason_found = parse(line.as_bytes()).unwrap_err().reason;
        assert_eq!(reason_found, reason, "{line}");
    }
    let twice = parse(b"monitor monitor").unwrap_err();
    assert_eq!(twice.reason, Reason::Twice);
    let unknown = parse(b"log=warn,foo=trace").unwrap_err();
    assert!(unknown.to_string().contains("no module 'foo'"), "{unknown}");
}

#[test]
fn a_line_that_may_have_been_cut_is_refused() {
    let line = |bytes: usize| [b"selftest=mm.".as_slice(), &vec![b'a'; bytes - 12]].concat();
    assert!(parse(&line(LONGEST)).is_ok());
    for bytes in [LONGEST + 1, LONGEST + 2] {
        let line = line(bytes);
        let e = parse(&line).unwrap_err();
        assert_eq!((e.index, e.reason), (0, Reason::TooLong));
        assert!(e.to_string().contains(&format!("{bytes} bytes")), "{e}");
    }
}

#[test]
fn words_of_loaders_are_passed_over_and_said() {
    let line = b"placeholder root=/dev/m\xc3\xbcll ro\tlog=warn acpi=off noapic -- log=loud ";
    let options = parse(line).unwrap();
    assert_eq!(options.log.level_for("mm"), log::LevelFilter::Warn);
    let passed: Vec<_> = passed_over(line).map(|passed| passed.word).collect();
    let root = &b"root=/dev/m\xc3\xbcll"[..];
    assert_eq!(
        passed,
        [
            b"placeholder",
            root,
            b"ro",
            b"acpi=off",
            b"noapic",
            b"log=loud"
        ]
    );
    // A name that only begins like one of them is nobody's.
    for line in ["rootfs=1", "acpi_=1", "ROOT=1", "---", "--log"] {
        let reason = parse(line.as_bytes()).unwrap_err().reason;
        assert_eq!(reason, Reason::Unknown, "{line}");
    }
}

#[test]
fn lines_as_loaders_write_them_ask_for_nothing() {
    for line in [
        // Qubes, for a domain of its.
        "root=/dev/mapper/dmroot ro nomodeset console=hvc0 rd_NO_PLYMOUTH rd.plymouth.enable=0 \
         plymouth.enable=0 xen_privcmd.unrestricted swiotlb=2048 apparmor=1 security=apparmor",
        // GRUB, for dom0, and Xen behind it.
        "placeholder root=UUID=0c268053-24fb-4ff7-8d2a-053a9006ef50 ro quiet noapic acpi=off",
        // The same, of the entry for recovery.
        "placeholder root=UUID=0c268053-24fb-4ff7-8d2a-053a9006ef50 ro single",
        // xl with `root` and nothing else.
        "root=/dev/xvda1",
    ] {
        let options = parse(line.as_bytes()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(options.selftest, Selection::None);
        let words = line.split_ascii_whitespace().count();
        assert_eq!(passed_over(line.as_bytes()).count(), words);
    }
}

#[test]
fn no_word_of_the_kernels_is_foreign() {
    for word in WORDS {
        assert_eq!(foreign::owner(word.name.as_bytes()), None, "{}", word.name);
    }
}

#[test]
fn whatever_is_not_text_is_refused_and_shown() {
    for (line, shown) in [
        (&b"self\xc3\xa4test"[..], "'self\\xc3\\xa4test'"),
        (b"log=warn\x7f", "'log=warn\\x7f'"),
        (b"\xff", "'\\xff'"),
    ] {
        let e = parse(line).unwrap_err();
        assert_eq!(e.reason, Reason::NotText);
        assert!(e.to_string().contains(shown), "{e}");
    }
}

#[test]
fn a_name_in_a_list_must_name_something() {
    let exists = |word: &str, name: &str| word == "selftest" && "mm.map".starts_with(name);
    assert!(check_names(b"selftest=mm log=mm=info", exists).is_ok());
    let e = check_names(b"monitor selftest=mm,nosuch", exists).unwrap_err();
    assert_eq!((e.index, e.reason), (2, Reason::NoSuch("nosuch")));
    assert!(check_names(b"bench=mm -- rules=x", exists).is_err());
    assert!(check_names(b"-- rules=x", exists).is_ok());
}

#[test]
fn an_image_refuses_the_words_of_what_it_lacks_and_no_others() {
    let words = &["selftest", "bench", "rules", "fuzz", "differential"];
    for (checks, programs) in [(true, true), (false, true), (true, false), (false, false)] {
        let parts = Parts { checks, programs };
        for word in WORDS {
            let refused = parse_for(word.name.as_bytes(), parts)
                .err()
                .map(|e| e.reason);
            assert_eq!(
                matches!(refused, Some(Reason::NotBuiltIn(_))),
                !checks && words.contains(&word.name) || !programs && word.name == "init",
                "{} by {parts:?}",
                word.name
            );
        }
    }
    let lean = Parts {
        checks: false,
        programs: false,
    };
    for (line, says) in [
        (
            "log=warn selftest=mm",
            "word 2: 'selftest=mm': this image was built without self-tests",
        ),
        (
            "init=/bin/sh -- -c true",
            "word 1: 'init=/bin/sh': this image was built without what runs programs",
        ),
    ] {
        let error = parse_for(line.as_bytes(), lean).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

proptest::proptest! {
    #[test]
    fn no_line_panics(line in proptest::collection::vec(proptest::num::u8::ANY, 0..1100)) {
        let _ = parse(&line).map_err(|e| (e.to_string(), e.summary().to_string()));
        let _ = passed_over(&line).count();
    }

    #[test]
    fn what_parts_words_makes_no_difference(
        given in proptest::collection::vec(0_usize..6, 0..5),
        gaps in proptest::collection::vec("[\x01-\x20]{1,3}", 6)
    ) {
        let known = ["log=warn", "monitor", "fuzz=3:4", "acpi=off", "nonsense", "--"];
        let words: Vec<_> = given.iter().map(|index| known[*index]).collect();
        let plain = words.join(" ");
        let mut odd = gaps[5].clone();
        for (word, gap) in words.iter().zip(&gaps) {
            odd.push_str(word);
            odd.push_str(gap);
        }
        let said = |line: &str| {
            let parsed = parse(line.as_bytes()).map_err(|e| e.to_string());
            parsed.map(|o| (o.monitor, o.fuzz, o.log.max()))
        };
        proptest::prop_assert_eq!(said(&plain), said(&odd));
    }
}
