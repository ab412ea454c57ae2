"""What a user might say in another language: invented, ordinary messages that fit anywhere in a chat."""

from __future__ import annotations

FOREIGN: dict[str, tuple[str, ...]] = {
    "de": (
        "Hallo, wie geht es dir heute?",
        "Was machst du am liebsten am Wochenende?",
        "Das klingt schön, erzähl mir mehr davon.",
        "Hast du Geschwister oder Haustiere?",
        "Ich war gestern lange spazieren, es hat geregnet.",
        "Welche Musik hörst du gern?",
        "Und wo wohnst du?",
    ),
    "fr": (
        "Bonjour, comment vas-tu ce matin ?",
        "Qu'est-ce que tu fais dans la vie ?",
        "C'est intéressant, depuis combien de temps ?",
        "Moi, j'adore cuisiner pour mes amis.",
        "Tu préfères la mer ou la montagne ?",
        "Tu as des projets pour cet été ?",
        "Raconte-moi quelque chose de drôle.",
    ),
    "es": (
        "Hola, ¿qué tal tu día?",
        "¿Cuál es tu comida favorita?",
        "Yo trabajo mucho, pero los domingos descanso.",
        "¿Tienes hermanos?",
        "Qué bien, a mí también me gusta.",
        "¿Has viajado a otro país?",
        "Mi abuela me enseñó a tocar la guitarra.",
    ),
    "ru": (
        "Привет, как у тебя дела?",
        "Чем ты занимаешься по вечерам?",
        "У меня дома живёт старый кот.",
        "Какая у тебя любимая книга?",
        "Это здорово, я так не умею.",
        "Сегодня у нас очень холодно.",
        "А кем ты работаешь?",
    ),
    "zh": (
        "你好，最近怎么样？",
        "你周末喜欢做什么？",
        "我昨天和朋友去爬山了。",
        "你家里有几口人？",
        "听起来很有意思，再说一点吧。",
        "你喜欢吃辣的吗？",
        "你住在哪个城市？",
    ),
    "ar": (
        "مرحبا، كيف حالك اليوم؟",
        "ماذا تعمل؟",
        "أنا أحب القراءة في المساء.",
        "هل لديك إخوة أو أخوات؟",
        "هذا جميل، أخبرني المزيد.",
        "ما هو طعامك المفضل؟",
        "الطقس حار جدا عندنا.",
    ),
}
