//! Telephone numbers (ITU-T E.164), checked with libphonenumber's data.
//!
//! Checked at the edges only, never inside replicated `apply`: the data changes between versions.
//! A number is *possible* (known country code, a length in use there); whether it is assigned is
//! the carrier's knowledge. `Display` and `Debug` are redacted: logs must not hold numbers.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use rlibphonenumber::enums::{NumberLengthType, Region};
use rlibphonenumber::{PHONE_NUMBER_UTIL, PhoneNumber, PhoneNumberFormat};

/// Why a text is no number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum E164Error {
    /// Something other than "+" and digits.
    #[error("is not \"+\" followed by digits, like +49301234567")]
    Form,
    /// No country or service has this country code.
    #[error("begins with no country code in use")]
    CountryCode,
    /// No number of this country is so long or so short.
    #[error("has a length that no number of its country has")]
    Length,
    /// A national number, but the trunk names no country to read it in.
    #[error("is a national number, but no default region is set")]
    NoRegion,
    /// The default region is no ISO 3166-1 alpha-2 code.
    #[error("is read in an unknown region: two letters of ISO 3166-1, like DE")]
    Region,
}

/// A number in international form: "+", country code, national number; at most 15 digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct E164 {
    text: Arc<str>,
    country_digits: u8,
}

impl E164 {
    /// Reads the numbering plans now, which takes up to 100 ms, so that no call has to wait for
    /// it.
    pub fn warm_up() {
        let _parsed = Self::parse("+12025550100");
    }

    /// Strict: "+" and digits, as the API and the overlay carry it.
    pub fn parse(text: &str) -> Result<Self, E164Error> {
        let digits = text.strip_prefix('+').ok_or(E164Error::Form)?;
        let all_digits = digits.bytes().all(|b| b.is_ascii_digit());
        if !all_digits || digits.is_empty() || digits.len() > 15 {
            return Err(E164Error::Form);
        }
        let number = PHONE_NUMBER_UTIL.parse(text, None).map_err(|_| E164Error::CountryCode)?;
        let parsed = Self::from_possible(&number)?;
        // libphonenumber drops what it takes for a trunk prefix; a strict number has none.
        if *parsed.text == *text { Ok(parsed) } else { Err(E164Error::Form) }
    }

    /// What people and PBXs dial: "+…", an international prefix, or a national number of
    /// `default_region` (ISO 3166-1 alpha-2), with the usual separators.
    pub fn parse_in(text: &str, default_region: Option<&str>) -> Result<Self, E164Error> {
        let region = default_region
            .map(|name| Region::from_str(name).map_err(|_| E164Error::Region))
            .transpose()?;
        if region.is_none() && !text.trim_start().starts_with('+') {
            return Err(E164Error::NoRegion);
        }
        let number = PHONE_NUMBER_UTIL.parse(text, region).map_err(|_| E164Error::Form)?;
        Self::from_possible(&number)
    }

    fn from_possible(number: &PhoneNumber) -> Result<Self, E164Error> {
        match number.is_possible_with_reason() {
            Ok(NumberLengthType::IsPossible) => {}
            Ok(NumberLengthType::IsPossibleLocalOnly) | Err(_) => return Err(E164Error::Length),
        }
        let text = number.format_as(PhoneNumberFormat::E164);
        let country_digits = number.country_code.to_string().len();
        Ok(Self {
            text: text.as_ref().into(),
            country_digits: u8::try_from(country_digits).map_err(|_| E164Error::CountryCode)?,
        })
    }

    /// "+" and digits. Not for logs: print the value itself there.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The digits without "+", as routes match them.
    pub fn digits(&self) -> &str {
        self.text.strip_prefix('+').unwrap_or(&self.text)
    }

    /// The country (ISO 3166-1, lower case) the number belongs to; "world" for services of no
    /// country.
    pub fn country(&self) -> String {
        let number = PHONE_NUMBER_UTIL.parse(&self.text, None).ok();
        let region = number.and_then(|number| number.get_region_code());
        let code = self.country_code().parse().unwrap_or_default();
        let region = region.or_else(|| PHONE_NUMBER_UTIL.get_region_for_country_code(code));
        let name = region.map(|region| region.to_string().to_ascii_lowercase());
        name.filter(|name| name.len() == 2 && name != "zz").unwrap_or_else(|| "world".into())
    }

    /// The country code, such as "49".
    pub fn country_code(&self) -> &str {
        self.digits().get(..usize::from(self.country_digits)).unwrap_or_default()
    }
}

impl FromStr for E164 {
    type Err = E164Error;

    fn from_str(s: &str) -> Result<Self, E164Error> {
        Self::parse(s)
    }
}

impl fmt::Display for E164 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redact(&self.text, usize::from(self.country_digits) + 1))
    }
}

impl fmt::Debug for E164 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Keeps `head` characters and the last two, hides the rest.
pub fn redact(text: &str, head: usize) -> String {
    let count = text.chars().count();
    text.chars()
        .enumerate()
        .map(|(i, c)| if i < head || i + 2 >= count { c } else { '•' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict_numbers() {
        let berlin = E164::parse("+4930123456").unwrap();
        assert_eq!(berlin.digits(), "4930123456");
        assert_eq!(berlin.country_code(), "49");
        assert_eq!(E164::parse("4930123456"), Err(E164Error::Form));
        assert_eq!(E164::parse("+49 30 123456"), Err(E164Error::Form));
        assert_eq!(E164::parse("+"), Err(E164Error::Form));
        assert_eq!(E164::parse("+9999999999999999"), Err(E164Error::Form));
        assert_eq!(E164::parse("+21012345678"), Err(E164Error::CountryCode));
        assert_eq!(E164::parse("+120255501"), Err(E164Error::Length));
        for good in
            ["+12025550173", "+6562345678", "+442079460000", "+390612345678", "+80012345678"]
        {
            assert_eq!(E164::parse(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn dialled_numbers_are_read_in_a_country() {
        for (dialled, region, e164) in [
            ("030 123456", Some("DE"), "+4930123456"),
            ("0049 30 123456", Some("DE"), "+4930123456"),
            ("011 65 6234 5678", Some("US"), "+6562345678"),
            ("06 1234 5678", Some("IT"), "+390612345678"),
            ("+1 (202) 555-0173", None, "+12025550173"),
        ] {
            assert_eq!(E164::parse_in(dialled, region).unwrap().as_str(), e164, "{dialled}");
        }
        assert_eq!(E164::parse_in("030 123456", None), Err(E164Error::NoRegion));
        assert_eq!(E164::parse_in("030 123456", Some("Germany")), Err(E164Error::Region));
        assert_eq!(E164::parse_in("anna", Some("DE")), Err(E164Error::Form));
    }

    #[test]
    fn printed_numbers_are_redacted() {
        let number = E164::parse("+4930123456").unwrap();
        assert_eq!(format!("{number} {number:?}"), "+49••••••56 +49••••••56");
    }
}
