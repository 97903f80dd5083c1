"""The settings of retention."""

from __future__ import annotations

from dataclasses import dataclass, field

from hycam.errors import HycamError, unknown


@dataclass
class RetentionRecipe:
    """What an adapted backbone has kept of its abilities.

    Args:
        tasks: Tasks it was not adapted to: hellaswag, piqa, arc_easy, sciq, openbookqa, lambada, coqa, squad. None by
            default.
        rows: Most rows of each task.
        accuracy: Score the wrong choices too, for the accuracy; takes as many times longer as there are choices.
        kl_texts: Number of LAMBADA passages on which KL(base || adapted) is taken; 0 for none.
        kl_replies: Number of the 40 fixed chat prompts on whose replies by the base KL is taken; 0 for none.
        batch_size: Rows in a batch.
        at_validations: In a study, also measure at every validation of the training and before the first step.
    """

    tasks: list[str] = field(default_factory=list)
    rows: int = 100
    accuracy: bool = True
    kl_texts: int = 0
    kl_replies: int = 0
    batch_size: int = 8
    at_validations: bool = False

    def __post_init__(self) -> None:
        for name, least in (("rows", 1), ("kl_texts", 0), ("kl_replies", 0), ("batch_size", 1)):
            value = getattr(self, name)
            if value < least:
                raise HycamError(f"retention.{name} is {value}: at least {least} was expected.")
        if self.tasks:
            from hycam.evaluation.retention.tasks import RETENTION_TASKS  # which imports the libraries of the data

            for name in self.tasks:
                if name not in RETENTION_TASKS:
                    raise unknown("retention task", name, RETENTION_TASKS)
        if len(set(self.tasks)) < len(self.tasks):
            raise HycamError(f"retention.tasks names one twice: {', '.join(self.tasks)}.")
        if self.kl_replies > len(CHAT_PROMPTS):
            raise HycamError(f"retention.kl_replies is {self.kl_replies}: there are {len(CHAT_PROMPTS)} chat prompts.")
        if self.at_validations and not self.is_measured:
            raise HycamError("retention.at_validations has nothing to measure: name tasks, kl_texts or kl_replies too.")

    @property
    def is_measured(self) -> bool:
        return bool(self.tasks or self.kl_texts or self.kl_replies)


# The backbone's replies to these are what KL compares an adapted model on. Never reorder them.
CHAT_PROMPTS = (
    "What can I cook with rice, two eggs and a tin of tomatoes?",
    "Explain to a ten-year-old why the sky is blue.",
    "Write a short poem about a lighthouse in winter.",
    "How do I change the tyre of a bicycle?",
    "My neighbour plays loud music at night. How do I bring it up politely?",
    "Name three differences between a frog and a toad.",
    "What is the capital of Portugal, and what is it known for?",
    "Translate into French: Where is the nearest railway station?",
    "Give me five names for a small bakery.",
    "If a train leaves at 9:40 and arrives at 12:15, how long does it travel?",
    "Write a Python function that says whether a word is a palindrome.",
    "I have a headache after work nearly every day. What might be the reason?",
    "Summarise the story of Cinderella in three sentences.",
    "What does the saying 'a stitch in time saves nine' mean?",
    "Tell me a joke about a cat and a computer.",
    "How does a vaccine protect the body?",
    "Write a polite email that asks for a deadline to be moved by a week.",
    "What should I pack for a weekend of hiking in autumn?",
    "Is it better to rent a flat or to buy one? Give two reasons for each.",
    "Who painted the Mona Lisa, and where can it be seen today?",
    "Correct this sentence: Me and him goes to school yesterday.",
    "What is 17 times 24? Show the steps.",
    "Describe the taste of coffee to someone who has never had any.",
    "How do plants make their food?",
    "Suggest a plan for learning Spanish in half an hour a day.",
    "What happened to the dinosaurs?",
    "Write the first paragraph of a mystery set on a ship.",
    "How can I stop my houseplants from dying?",
    "Explain what inflation is and whom it hurts.",
    "List the planets of the solar system in order from the sun.",
    "Hello! How are you today?",
    "What are the rules of chess for the knight?",
    "My friend did not get the job that she wanted. What can I say to her?",
    "Turn this into a list: we need milk, bread, six apples and some soap.",
    "What is the difference between weather and climate?",
    "Give me a riddle, and then its answer.",
    "How many days are there in a leap year, and why?",
    "What questions should I ask at an interview for a job?",
    "Rewrite in a friendly tone: Your payment is late. Pay now.",
    "Why do cats purr?",
)
