//! Numbering plans (ITU-T E.164): which country, kind and area a number belongs to.
//!
//! `data/countries.tsv` lists what every country has; a single number is classified with
//! libphonenumber's data. Like `e164`, for the edges only, never inside replicated `apply`: the
//! data changes between versions. Deliberately not here: who holds a number (portability moves
//! it), and what the law of a country asks for.

use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::LazyLock;

use rlibphonenumber::enums::Region;
use rlibphonenumber::{
    PHONE_NUMBER_UTIL, PhoneNumber, PhoneNumberType, get_national_significant_number_owned,
};

use crate::e164::E164;

/// ISO-like code of what belongs to no country: international freephone, satellite networks.
pub const WORLD: &str = "001";

/// What a number is for, in libphonenumber's terms, with alike ones joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Belongs to an area. Where the plan does not tell (North America): any ordinary number.
    Local,
    /// Belongs to a cell phone.
    Mobile,
    /// Belongs to a country or network and to no area: company-wide and VoIP numbers.
    National,
    /// Free for the caller.
    TollFree,
    /// The caller pays a part.
    SharedCost,
    /// The caller pays more.
    Premium,
    /// Belongs to a person, wherever they are.
    Personal,
}

impl Kind {
    /// All of them, by name.
    pub const ALL: [(Self, &'static str); 7] = [
        (Self::Local, "local"),
        (Self::Mobile, "mobile"),
        (Self::National, "national"),
        (Self::TollFree, "toll_free"),
        (Self::SharedCost, "shared_cost"),
        (Self::Premium, "premium"),
        (Self::Personal, "personal"),
    ];

    fn of(kind: PhoneNumberType) -> Option<Self> {
        match kind {
            PhoneNumberType::FixedLine | PhoneNumberType::FixedLineOrMobile => Some(Self::Local),
            PhoneNumberType::Mobile => Some(Self::Mobile),
            PhoneNumberType::UAN | PhoneNumberType::VoIP => Some(Self::National),
            PhoneNumberType::TollFree => Some(Self::TollFree),
            PhoneNumberType::SharedCost => Some(Self::SharedCost),
            PhoneNumberType::PremiumRate => Some(Self::Premium),
            PhoneNumberType::PersonalNumber => Some(Self::Personal),
            PhoneNumberType::Pager | PhoneNumberType::VoiceMail | PhoneNumberType::Unknown => None,
        }
    }
}

impl FromStr for Kind {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Self::ALL.iter().find(|(_, own)| *own == name).map(|(kind, _)| *kind).ok_or(())
    }
}

/// The plan of a country or global service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Country {
    /// ISO 3166-1 alpha-2, or [`WORLD`].
    pub iso: &'static str,
    /// Without "+".
    pub calling_code: u16,
    /// In English.
    pub name: &'static str,
    /// Kinds it has, each with the lengths of its national numbers.
    pub kinds: Vec<(Kind, Vec<RangeInclusive<u8>>)>,
    /// First digits of its toll-free national numbers.
    pub toll_free: Vec<&'static str>,
}

impl Country {
    /// Lengths of national numbers of this kind; none: the country has no such numbers.
    pub fn lengths(&self, kind: Kind) -> &[RangeInclusive<u8>] {
        let found = self.kinds.iter().find(|(own, _)| *own == kind);
        found.map_or(&[], |(_, lengths)| lengths)
    }
}

/// All plans, by ISO code.
pub fn countries() -> &'static [Country] {
    &COUNTRIES
}

/// The plan of a country, by its ISO code.
pub fn country(iso: &str) -> Option<&'static Country> {
    countries().iter().find(|country| country.iso == iso && iso != WORLD)
}

static COUNTRIES: LazyLock<Vec<Country>> = LazyLock::new(|| {
    let lines = include_str!("../data/countries.tsv").lines();
    lines.filter(|line| !line.starts_with('#')).filter_map(read).collect()
});

/// A line of the file. One that is wrong is left out, which the tests notice.
fn read(line: &'static str) -> Option<Country> {
    let mut fields = line.split('\t');
    let (iso, code, name) = (fields.next()?, fields.next()?, fields.next()?);
    let (kinds, toll_free) = (fields.next()?, fields.next()?);
    let kinds = kinds.split(' ').map(|one| {
        let (kind, lengths) = one.split_once(':')?;
        let lengths = lengths.split(',').map(|one| {
            let (from, to) = one.split_once('-').unwrap_or((one, one));
            Some(from.parse().ok()?..=to.parse().ok()?)
        });
        Some((kind.parse().ok()?, lengths.collect::<Option<_>>()?))
    });
    let toll_free = toll_free.split(',').filter(|prefix| *prefix != "-");
    Some(Country {
        iso,
        calling_code: code.parse().ok()?,
        name,
        kinds: kinds.collect::<Option<_>>()?,
        toll_free: toll_free.collect(),
    })
}

/// Where a number belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    /// ISO 3166-1 alpha-2, or [`WORLD`].
    pub country: String,
    /// `None`: the plan knows no such number, or a kind no one sells.
    pub kind: Option<Kind>,
    /// Area code of a geographic number: "30", "212". Empty: none.
    pub area: String,
}

/// Classifies by the plan. Never fails: of a number the plan does not know, the main country of
/// its calling code is told and no more.
pub fn classify(e164: &E164) -> Class {
    let Ok(number) = PHONE_NUMBER_UTIL.parse(e164.as_str(), None) else {
        return Class { country: String::new(), kind: None, area: String::new() };
    };
    let valid = PHONE_NUMBER_UTIL.get_region_for_number(&number);
    let region = valid.or_else(|| main_region(number.country_code));
    let country = region.map_or_else(|| WORLD.to_owned(), |region| region.to_string());
    let kind = Kind::of(PHONE_NUMBER_UTIL.get_number_type(&number));
    Class { country, kind, area: area(&number) }
}

fn main_region(calling_code: i32) -> Option<Region> {
    PHONE_NUMBER_UTIL.get_region_for_country_code(calling_code)
}

fn area(number: &PhoneNumber) -> String {
    let length = PHONE_NUMBER_UTIL.get_length_of_geographical_area_code(number);
    let national = get_national_significant_number_owned(number);
    national.get(..length).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kinds of libphonenumber that have examples, as the file names them.
    const KINDS: [PhoneNumberType; 8] = [
        PhoneNumberType::FixedLine,
        PhoneNumberType::Mobile,
        PhoneNumberType::UAN,
        PhoneNumberType::VoIP,
        PhoneNumberType::TollFree,
        PhoneNumberType::SharedCost,
        PhoneNumberType::PremiumRate,
        PhoneNumberType::PersonalNumber,
    ];

    fn of(e164: &str) -> (String, Option<Kind>, String) {
        let class = classify(&E164::parse(e164).unwrap());
        (class.country, class.kind, class.area)
    }

    #[test]
    fn every_line_of_the_file_is_read() {
        let lines = include_str!("../data/countries.tsv").lines();
        assert_eq!(lines.filter(|line| !line.starts_with('#')).count(), countries().len());
        let mut regions: Vec<&str> = countries().iter().map(|country| country.iso).collect();
        regions.retain(|iso| *iso != WORLD);
        let mut known: Vec<String> =
            PHONE_NUMBER_UTIL.get_supported_regions().map(|region| region.to_string()).collect();
        known.sort_unstable();
        assert_eq!(regions, known, "as libphonenumber knows them, in order");
        assert_eq!(country("DE").unwrap().name, "Germany");
        assert_eq!(country("001"), None);
    }

    /// The examples of each kind are classified as the file says, and have a length it lists.
    #[test]
    fn samples_of_every_country_are_classified_as_the_file_says() {
        let (mut samples, mut wrong) = (0, Vec::new());
        for country in countries().iter().filter(|country| country.iso != WORLD) {
            let region = Region::from_str(country.iso).unwrap();
            let code = PHONE_NUMBER_UTIL.get_country_code_for_region(region);
            assert_eq!(code, Some(i32::from(country.calling_code)), "{}", country.iso);
            for kind in KINDS {
                let example =
                    PHONE_NUMBER_UTIL.get_example_number_for_type_and_region(region, kind);
                let Ok(number) = example else { continue };
                samples += 1;
                wrong.extend(differs(country, Kind::of(kind).unwrap(), &number));
            }
        }
        assert!(wrong.is_empty(), "correct the file:\n{}", wrong.join("\n"));
        assert!(samples > 800, "{samples}");
    }

    fn differs(country: &Country, kind: Kind, number: &PhoneNumber) -> Option<String> {
        let national = get_national_significant_number_owned(number);
        let e164 = format!("+{}{national}", country.calling_code);
        let length = u8::try_from(national.len()).unwrap();
        let lengths = country.lengths(kind);
        let free = country.toll_free.iter().any(|prefix| national.starts_with(prefix));
        let said = lengths.iter().any(|lengths| lengths.contains(&length))
            && (kind != Kind::TollFree || free);
        // What is longer than E.164 allows is not ours.
        let class = E164::parse(&e164).ok().map(|e164| classify(&e164));
        let alike = class.as_ref().is_none_or(|class| {
            // Countries of one calling code share what belongs to no area, these even that; and
            // where mobile and fixed numbers look alike, both are ordinary ones.
            let code = super::country(&class.country).map(|found| found.calling_code);
            let shared = kind != Kind::Local || ["EH", "MF"].contains(&country.iso);
            (class.country == country.iso || (shared && code == Some(country.calling_code)))
                && (class.kind == Some(kind)
                    || (kind == Kind::Mobile && class.kind == Some(Kind::Local)))
        });
        (!said || !alike).then(|| format!("{} {kind:?} {e164}: {lengths:?} {class:?}", country.iso))
    }

    /// Some number behind every listed prefix is toll-free.
    #[test]
    fn toll_free_prefixes_are_toll_free() {
        let mut prefixes = 0;
        for country in countries() {
            for prefix in &country.toll_free {
                prefixes += 1;
                assert!(some_is_free(country, prefix), "{} {prefix}", country.iso);
            }
        }
        assert!(prefixes > 200, "{prefixes}");
    }

    fn some_is_free(country: &Country, prefix: &str) -> bool {
        let lengths = country.lengths(Kind::TollFree).iter().cloned().flatten();
        for length in lengths.map(usize::from).filter(|length| *length > prefix.len()) {
            let digits = u32::try_from(length - prefix.len()).unwrap();
            let most = 10_u64.pow(digits);
            // Steps over the whole range: some second digits are reserved.
            for n in (0..1_000).map(|n| (n * 7_919 * most / 1_000) % most) {
                let e164 = format!(
                    "+{}{prefix}{n:0width$}",
                    country.calling_code,
                    width = digits as usize
                );
                let class = E164::parse(&e164).map(|e164| classify(&e164));
                if class.is_ok_and(|class| class.kind == Some(Kind::TollFree)) {
                    return true;
                }
            }
        }
        false
    }

    #[test]
    fn areas_are_those_of_geographic_numbers() {
        for (e164, country, kind, area) in [
            ("+4930123456", "DE", Some(Kind::Local), "30"),
            ("+4915123456789", "DE", Some(Kind::Mobile), ""),
            ("+498001234567", "DE", Some(Kind::TollFree), ""),
            ("+442079460000", "GB", Some(Kind::Local), "20"),
            ("+12025550173", "US", Some(Kind::Local), "202"),
            ("+16135550173", "CA", Some(Kind::Local), "613"),
            ("+18005551234", "US", Some(Kind::TollFree), ""),
            ("+390612345678", "IT", Some(Kind::Local), "06"),
            ("+6562345678", "SG", Some(Kind::Local), ""),
            ("+81312345678", "JP", Some(Kind::Local), "3"),
            ("+80012345678", WORLD, Some(Kind::TollFree), ""),
            ("+882131234567", WORLD, None, ""),
        ] {
            let found = of(e164);
            let expected = (country.to_owned(), kind, area.to_owned());
            assert_eq!((found.0, found.2), (expected.0, expected.2), "{e164}");
            assert!(expected.1.is_none() || found.1 == expected.1, "{e164} {:?}", found.1);
        }
    }
}
