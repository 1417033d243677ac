"""The units that are known, with their sizes and all their spellings."""

from fractions import Fraction

# symbol: dimension, size in the dimension's base unit, other spellings. Dimensions are letters:
# L length, M mass, T time, I current, K temperature, N amount, D angle, $ money of each currency.
_TABLE = """
mm: L 1/1000 millimeter millimeters millimetre millimetres
cm: L 1/100 centimeter centimeters centimetre centimetres cms
dm: L 1/10 decimeter decimeters decimetre decimetres
m: L 1 meter meters metre metres
km: L 1000 kilometer kilometers kilometre kilometres kms
nm: L 1/1000000000 nanometer nanometers nanometre nanometres
µm: L 1/1000000 um μm micrometer micrometers micrometre micrometres micron microns
in: L 127/5000 inch inches
ft: L 381/1250 foot feet
yd: L 1143/1250 yard yards yds
mi: L 201168/125 mile miles
mg: M 1/1000000 milligram milligrams
g: M 1/1000 gram grams gm
kg: M 1 kilogram kilograms kgs kilo kilos
t: M 1000 tonne tonnes
ton: M* 1 tons
lb: M 45359237/100000000 lbs pound pounds
oz: M 45359237/1600000000 ounce ounces
ml: LLL 1/1000000 mL milliliter milliliters millilitre millilitres
cl: LLL 1/100000 cL centiliter centilitre
dl: LLL 1/10000 dL deciliter decilitre
l: LLL 1/1000 L liter liters litre litres
gal: LLL 473176473/125000000000 gallon gallons
s: T 1 sec secs second seconds
ms: T 1/1000 millisecond milliseconds
min: T 60 mins minute minutes
h: T 3600 hr hrs hour hours
d: T 86400 day days
week: T 604800 weeks wk wks
month: T* 1 months
year: T* 12 years yr yrs
A: I 1 amp amps ampere amperes
mA: I 1/1000 milliampere milliamperes milliamps
K: K 1 kelvin kelvins
°C: KC 1 ℃ celsius
°F: KF 1 ℉ fahrenheit
mol: N 1 mole moles mols
Hz: /T 1 hz hertz
kHz: /T 1000 khz kilohertz
MHz: /T 1000000 mhz megahertz
GHz: /T 1000000000 ghz gigahertz
N: F 1 newton newtons
kN: F 1000 kilonewton kilonewtons
J: E 1 joule joules
kJ: E 1000 kj kilojoule kilojoules
MJ: E 1000000 megajoule megajoules
cal: E 4184/1000 calorie calories
kcal: E 4184 kilocalorie kilocalories
eV: E* 1 ev electronvolt electronvolts
W: P 1 watt watts
kW: P 1000 kw kilowatt kilowatts
kWh: E 3600000 kwh
V: U 1 volt volts
mV: U 1/1000 mv millivolt millivolts
kV: U 1000 kv kilovolt kilovolts
Ω: R 1 Ω ohm ohms
kΩ: R 1000 kohm kilohm kilohms kiloohm kiloohms
C: Q 1 coulomb coulombs
F: CF 1 farad farads
µF: CF 1/1000000 uF μF microfarad microfarads
T: B 1 tesla teslas
Pa: PR 1 pa pascal pascals
kPa: PR 1000 kpa kilopascal kilopascals
MPa: PR 1000000 megapascal megapascals
atm: PR 101325 atmosphere atmospheres
M: C* 1 molar
rad: D 1 radian radians
°: DD 1 deg degs degree degrees º 度
$: $USD 1 dollar dollars usd buck bucks us$
cent: $USD 1/100 cents ¢
€: $EUR 1 euro euros eur
£: $GBP 1 gbp
¥: $YEN 1 yen yuan rmb cny jpy 元
₹: $INR 1 rupee rupees inr rs
bit: BIT 1 bits
byte: BIT 8 bytes
KB: BIT 8000 kb kilobytes
MB: BIT 8000000 mb megabytes
GB: BIT 8000000000 gb gigabytes
dB: DB 1 db decibel decibels
mph: SPEED 0
kph: SPEED 0 kmph kmh
bpm: BPM 0
"""
COMPOUND = {
    "mph": (("mi", 1), ("h", -1)),
    "kph": (("km", 1), ("h", -1)),
    "bpm": (("beat", 1), ("min", -1)),
}


def _load() -> tuple[dict[str, str], dict[str, tuple[str, Fraction]]]:
    names: dict[str, str] = {}
    sizes: dict[str, tuple[str, Fraction]] = {}
    for line in _TABLE.strip().split("\n"):
        symbol, _, rest = line.partition(": ")
        dimension, size, *others = rest.split()
        sizes[symbol] = (dimension, Fraction(size))
        for name in (symbol, *others):
            names.setdefault(name, symbol)
    return names, sizes


NAMES, SIZES = _load()
LOWER = {name.lower(): symbol for name, symbol in reversed(NAMES.items()) if len(name) > 1}
