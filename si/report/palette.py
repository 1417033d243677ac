"""The colours of pages and plots. Pages need them where no plot is drawn, so matplotlib is not
imported here."""

# Name of a CSS variable -> its value in the light theme and in the dark one. All values of the
# light theme differ: a plot's colours are told apart by them. On the card each has a contrast of 3
# or more, as a shape needs, and `-text` one of 4.5 where the shape's own has less.
COLOURS = {
    "ink": ("#1b2430", "#e7ebf0"),
    "soft": ("#5b6675", "#9aa7b8"),
    "grid": ("#d9dee6", "#334052"),
    "card": ("#ffffff", "#19212c"),
    "L1": ("#b8430b", "#ff8a4c"),
    "L2": ("#cf7a12", "#f7b955"),
    "L3": ("#8a8472", "#c9c3b2"),
    "L4": ("#2f93a8", "#6fc9db"),
    "L5": ("#2f6fc4", "#7aa8ff"),
    "U": ("#4b3fa0", "#b3a4ff"),
    "L2-text": ("#935308", "#f7b955"),
    "L3-text": ("#67614f", "#c9c3b2"),
    "L4-text": ("#1c7082", "#6fc9db"),
    "s1": ("#2563a8", "#78b0f0"),
    "s2": ("#c2410d", "#ff9558"),
    "s3": ("#15803d", "#5fd08a"),
    "s4": ("#9333a8", "#d99bf0"),
    "s5": ("#8a6d0b", "#e3c34d"),
    "s6": ("#0e7c86", "#56d0da"),
    "s7": ("#be185d", "#ff8cba"),
    "s8": ("#64748c", "#a9b7cb"),
}
SERIES = tuple(name for name in COLOURS if name[0] == "s" and name != "soft")
