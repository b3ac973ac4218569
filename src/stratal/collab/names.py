"""Names for runs and models that were given none: an adjective, a noun and a number."""

import secrets

_ADJECTIVES = """
able amber apt bold brave bright brisk calm candid clear clever crisp dapper deft eager early earnest fair
fleet fluent fond frank fresh gentle glad golden good grand handy hardy hearty honest humble jolly just keen
kind lively loyal lucid lucky mellow merry mighty mild neat nimble noble patient placid plucky polite proud
quick quiet rapid ready robust rosy sage serene sharp shiny silver sleek smooth snug sober solid sound spry
stable steady stoic sturdy sunny sure swift tidy trusty upbeat valiant vivid warm wise witty worthy zesty
"""
_NOUNS = """
ant badger bat bear bee bison boar carp cat colt conch crab crane crow deer dove duck eagle eel elk falcon
finch fish flea fly foal fowl fox frog gnat goat goose grouse grub gull hare hawk hen heron hog horse hound
ibex jay kite koi lark lion lizard lynx mole moose moth mouse mule newt otter owl ox panda perch pig pike
pony pug quail ram rat raven robin rook seal shad sheep shrew shrimp skink slug snail snipe squid stag stork
swan tern toad trout turtle vole wasp whale wolf worm wren yak zebra
"""


def random_name() -> str:
    """For example ``keen-otter-417``."""
    return f"{secrets.choice(_ADJECTIVES.split())}-{secrets.choice(_NOUNS.split())}-{secrets.randbelow(1000)}"
