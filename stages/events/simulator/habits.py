"""What simulated people do, when, where and after what: the factors of the simulator's p*(y|x).

Names and shares are those of the behaviour dataset in arXiv 2505.17682 v1, Table 3, in its order, with the English
mended. All other numbers are ours. Only ratios within one behaviour matter: the simulator scales each behaviour to its
share.
"""

from dataclasses import dataclass, field

Hours = dict[tuple[int, int], float]  # from (included), to (excluded): factor


@dataclass(frozen=True)
class Habit:
    """One behaviour's factors.

    `hours` and `places` multiply the behaviour's weight inside them, `other_hours` and `elsewhere` outside; `factor`
    multiplies it while the condition `when` holds. `again` multiplies it right after itself (within half an hour),
    `today` within a day after itself. For `rest` hours after itself it is multiplied by a hundredth. `taste` is the
    standard deviation, over people, of its log weight; `people` the share of people who do it at all (the others: a
    fiftieth).
    """

    name: str
    share: float
    taste: float = 0.7
    people: float = 1.0
    hours: Hours = field(default_factory=dict)
    other_hours: float = 1.0
    weekend: float = 1.0
    places: dict[str, float] = field(default_factory=dict)
    elsewhere: float = 1.0
    again: float = 1.0
    today: float = 1.0
    rest: float = 0.0
    when: str = ""
    factor: float = 1.0


@dataclass(frozen=True)
class Trigger:
    """`effect` becomes `factor` times as likely from `after` to `until` hours after the last `cause`."""

    cause: str
    effect: str
    factor: float
    after: float = 0.0
    until: float = 0.5


# The states of a person that `Habit.when` may name, beside those of `days`
CONDITIONS = ("arrived", "trip soon", "learns to drive", "looks for a home", "looks for a job", "parcel waits")

HABITS = (
    Habit("Watching video clips", .435981, .5, hours={(6, 9): .8, (12, 14): 1.3, (20, 24): 1.6, (0, 3): 1.8},
          places={"home": 1.4, "on the way": .8, "workplace": .7, "campus": .8}, elsewhere=.45, again=4.5, today=1.1),
    Habit("Shopping online", .112217, .8, hours={(12, 14): 1.5, (19, 24): 1.7}, weekend=1.2,
          places={"home": 1.4, "workplace": 1.0}, elsewhere=.5, again=14, today=1.2),
    Habit("Editing videos", .05937, .8, .5, hours={(19, 24): 2.0, (0, 2): 1.5}, weekend=1.3,
          places={"home": 1.5, "tourist spot": 1.5, "hotel": 3}, elsewhere=.3, again=35, today=2),
    Habit("Reading books", .055293, .8, .6, hours={(21, 24): 3.0, (0, 1): 2, (6, 9): 1.5},
          places={"on the way": 1.8, "home": 1.3, "café": 2}, elsewhere=.4, again=32, today=2),
    Habit("Gaming", .044202, .8, .6, hours={(12, 14): 1.5, (19, 24): 2.2, (0, 3): 3}, weekend=1.5,
          places={"home": 1.4, "campus": 2}, elsewhere=.3, again=35, today=2),
    Habit("Watching videos", .041266, .7, .8, hours={(19, 23): 3.5, (12, 14): 1.5}, weekend=1.6,
          places={"home": 1.8, "hotel": 1.5}, elsewhere=.2, again=28, today=1.5),
    Habit("Reading news", .036046, .8, .8, hours={(6, 9): 6, (12, 13): 1.6}, other_hours=.6,
          places={"on the way": 1.8}, again=22, today=1.5),
    Habit("Taking photos", .035068, .6, places={"tourist spot": 60, "park": 14, "restaurant": 5, "karaoke bar": 3},
          elsewhere=.5, hours={(8, 19): 1.5}, again=45),
    Habit("Taking the subway", .031969, .5, .75, hours={(7, 10): 2.5, (17, 20): 2}, places={"on the way": 150},
          elsewhere=.15, again=.5, when="arrived", factor=2),
    Habit("Making payments", .029848, .4, places={"shopping mall": 22, "restaurant": 14, "café": 14, "park": 1.5},
          elsewhere=1, again=.6),
    Habit("Listening to music", .02365, .8, .7, places={"on the way": 7, "gym": 14, "park": 4, "campus": 1.5},
          again=22, today=1.5),
    Habit("Checking the weather", .016963, .5, hours={(6, 9): 14, (21, 23): 1.5}, other_hours=.6,
          places={"home": 1.5, "tourist spot": 2, "hotel": 4}, again=.1, rest=3),
    Habit("Studying for courses", .01419, .6, .5, hours={(8, 12): 2, (14, 18): 2, (19, 22): 2}, other_hours=.3,
          weekend=.7, places={"campus": 22, "home": 1}, elsewhere=.2, again=40, today=2),
    Habit("Ordering takeout", .012722, .6, .7, hours={(11, 13): 20, (17, 20): 13, (22, 24): 1.5}, other_hours=.15,
          places={"home": 1.3, "workplace": 2, "campus": 1.5, "hotel": 2}, elsewhere=.05, again=.1, rest=3),
    Habit("Listening to podcasts", .012396, .7, .45, hours={(7, 10): 3, (17, 20): 2, (22, 24): 2},
          places={"on the way": 22, "gym": 8, "park": 5}, again=22, today=2),
    Habit("Looking for a job", .010928, .3, hours={(9, 12): 2, (14, 17): 2, (19, 22): 2}, other_hours=.4, weekend=.5,
          places={"home": 1.5}, again=35, when="looks for a job", factor=120),
    Habit("Taking notes", .003915, .6, .6, hours={(8, 18): 2.5}, places={"workplace": 6, "campus": 8}, elsewhere=1,
          again=6),
    Habit("Checking the calendar", .003591, .5, .5, hours={(8, 10): 15, (13, 14): 2.5}, other_hours=.3, weekend=.15,
          places={"workplace": 10, "on the way": 1}, elsewhere=.3, rest=4, when="arrived", factor=5),
    Habit("Hailing a taxi", .003262, .5, hours={(21, 24): 14, (0, 4): 14, (5, 8): 2},
          places={"on the way": 30, "karaoke bar": 14, "restaurant": 10, "airport": 70, "hotel": 4}, elsewhere=.2,
          again=.1, rest=2),
    Habit("Picking up a parcel", .00261, .3, hours={(12, 14): 2, (17, 21): 6, (8, 12): 1}, other_hours=.1,
          places={"home": 4, "campus": 3, "on the way": 2}, elsewhere=.1, rest=8, when="parcel waits", factor=150),
    Habit("Watching a sports match", .00213, .7, .4, hours={(19, 23): 12, (15, 18): 3, (0, 3): 5}, other_hours=.1,
          weekend=5, places={"home": 2, "restaurant": 3}, elsewhere=.3, again=160, today=2),
    Habit("Exercising", .002003, .6, .6, hours={(6, 8): 5, (17, 21): 3}, places={"gym": 260, "park": 22}, again=4),
    Habit("Singing", .001957, .5, .6, hours={(19, 24): 4}, places={"karaoke bar": 1200}, again=12),
    Habit("Watching a live stream", .001794, .8, .45, hours={(20, 24): 9, (0, 2): 8}, other_hours=.4,
          places={"home": 2, "hotel": 1.5}, elsewhere=.3, again=160, today=2),
    Habit("Cycling", .001794, .6, .4, hours={(6, 9): 3, (16, 20): 2}, weekend=2.5,
          places={"park": 220, "on the way": 14}, again=2),
    Habit("Meeting online", .000816, .6, .5, hours={(9, 12): 10, (13, 18): 9}, other_hours=.05, weekend=.05,
          places={"workplace": 14, "home": 1.5}, elsewhere=.2, again=12),
    Habit("Studying for the driving test", .000652, .3, hours={(12, 14): 2, (19, 23): 3}, again=60,
          when="learns to drive", factor=900),
    Habit("Translating", .000652, .5, .7, places={"airport": 150, "hotel": 70, "tourist spot": 70, "campus": 10},
          again=10),
    Habit("Renting a house", .000652, .3, hours={(9, 22): 4}, weekend=2, again=60, when="looks for a home", factor=900),
    Habit("Watching animation", .000489, .6, .25, hours={(17, 20): 14, (8, 11): 3, (20, 22): 6}, weekend=3,
          places={"home": 5, "campus": 2}, elsewhere=.1, again=220, today=4),
    Habit("Booking tickets", .000489, .4, places={"home": 2}, hours={(9, 23): 3}, again=8, when="trip soon",
          factor=160),
    Habit("Checking in at work", .000323, .3, .25, hours={(7, 10): 30, (10, 12): 1}, other_hours=.02, weekend=.02,
          places={"workplace": 120}, elsewhere=.05, rest=8, when="arrived", factor=60),
    Habit("Cooking", .000323, .5, .4, hours={(11, 13): 12, (17, 19): 25}, other_hours=.05, weekend=2,
          places={"home": 30}, elsewhere=.02, again=30, today=1.5),
    Habit("Drinking coffee", .000283, .5, .5, hours={(8, 11): 5, (13, 16): 5}, other_hours=.3,
          places={"café": 900, "workplace": 6, "airport": 5}, rest=1.5),
    Habit("Renting a car", .000163, .3, .7, places={"airport": 1200, "hotel": 120, "tourist spot": 20},
          hours={(8, 20): 3}, rest=1, when="arrived", factor=4),
)

TRIGGERS = (
    Trigger("Shopping online", "Making payments", 9),
    Trigger("Ordering takeout", "Making payments", 25),
    Trigger("Booking tickets", "Making payments", 12),
    Trigger("Hailing a taxi", "Making payments", 12, 0.0, 1.0),
    Trigger("Taking the subway", "Making payments", .3),
    Trigger("Taking photos", "Editing videos", 4, 0.0, 6.0),
    Trigger("Studying for courses", "Taking notes", 30),
    Trigger("Meeting online", "Taking notes", 40, 0.0, 1.0),
    Trigger("Reading books", "Taking notes", 10),
    Trigger("Checking the calendar", "Meeting online", 50, 0.0, 1.0),
    Trigger("Checking in at work", "Checking the calendar", 8),
    Trigger("Checking the weather", "Cycling", 6, 0.0, 2.0),
    Trigger("Booking tickets", "Hailing a taxi", 6, 1.0, 48.0),
    Trigger("Looking for a job", "Renting a house", 4, 0.5, 48.0),
    Trigger("Reading books", "Translating", 10),
    Trigger("Shopping online", "Ordering takeout", .6),
    Trigger("Singing", "Hailing a taxi", 5, 0.25, 4.0),
    Trigger("Exercising", "Ordering takeout", 3, 0.5, 2.0),
)
