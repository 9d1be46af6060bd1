"""What fingers and eyes mistake: neighbouring keys, and characters that look alike."""

ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
"""A keyboard; each row is shifted by half a key against the one above."""


def neighbours() -> dict[str, str]:
    """Letter -> letters whose keys touch its key.

    >>> neighbours()["s"]
    'adwezx'
    """
    touching = {}
    for number, row in enumerate(ROWS):
        for place, letter in enumerate(row):
            beside = row[max(0, place - 1) : place] + row[place + 1 : place + 2]
            above = ROWS[number - 1][place : place + 2] if number else ""
            below = ROWS[number + 1][max(0, place - 1) : place + 1] if number + 1 < len(ROWS) else ""
            touching[letter] = beside + above + below
    return touching


NEIGHBOURS = neighbours()

ALIKE = """
o0 l1 i1 e3 a@ s5 b6 g9 O0 I1 E3 A4 S5 B8 己已巳 未末 土士 日曰 人入 大太犬 天夭 千干于 午牛 刀力 贝见 鸟乌
侯候 戌戍戊 辨辩 今令 住往 拔拨 治冶 折拆析 晴睛 请清情 跑抱炮泡 很狠恨 哪那 买卖 徒徙 史吏 问间 免兔 休体
找我 幻幼 夫失 王玉主 本木 白自 目且 由甲申 石右 万方 厂广 几凡 小少 又叉 没设 话活 说悦 读续 快块 样洋 课棵
级极 货贷贺 酒洒 密蜜 待侍 线钱 试式 受爱 理埋 查杏
"""
"""Characters that are easily taken for one another."""


def lookalikes() -> dict[str, list[str]]:
    """Character -> those that look like it; letters have digits, not the other way round."""
    table: dict[str, list[str]] = {}
    for group in ALIKE.split():
        for character in group if ord(group[0]) > 0x7F else group[0]:
            others = table.setdefault(character, [])
            others += [other for other in group if other != character and other not in others]
    return table


LOOKALIKES = lookalikes()
